//! Where is what a Function names, and may it be used?

use wisp_api::{ImageVolumeSource, ModelSource};

use super::{Gathered, Part, Pin, ResolveError, Volume};
use crate::artifacts::{ArtifactError, Artifacts, Origin, Source};

/// Where a component or model is.
pub(super) enum Located {
    Source(Source),
    Volume(Volume),
}

/// What the signature policy lets be used: an image that must be signed, by the digest that is.
pub(super) async fn admit(
    located: Located,
    gathered: &Gathered,
    artifacts: &dyn Artifacts,
) -> Result<Located, ArtifactError> {
    // Nodes pull what they mount, and tell of a pull secret that is missing.
    let of_volumes = gathered.credentials().unwrap_or_default();
    let origin = match &located {
        Located::Source(Source::Image {
            reference,
            credentials,
            ..
        }) => Origin::Image {
            reference,
            credentials,
        },
        Located::Volume(Volume::Image(image)) => Origin::Image {
            reference: &image.reference,
            credentials: &of_volumes,
        },
        Located::Source(Source::Url { .. }) => Origin::Other("a URL"),
        Located::Source(Source::Bytes { .. }) => Origin::Other("a ConfigMap"),
        Located::Volume(Volume::Claim(_)) => Origin::Other("a volume claim"),
    };
    let verified = artifacts.admit(&gathered.namespace, origin).await?;
    Ok(match (located, verified) {
        (
            Located::Source(Source::Image {
                credentials,
                sha256,
                ..
            }),
            Some(reference),
        ) => Located::Source(Source::Image {
            reference,
            credentials,
            sha256,
        }),
        (Located::Volume(Volume::Image(image)), Some(reference)) => {
            Located::Volume(Volume::Image(ImageVolumeSource { reference, ..image }))
        }
        (located, _) => located,
    })
}

/// The digest that `source` had before, where it means the same for as long as the spec does. A ConfigMap's content may be
/// another by now.
pub(super) fn known(source: &Source, pin: Option<&Pin>) -> Option<String> {
    match source {
        Source::Bytes { .. } => None,
        Source::Image { .. } | Source::Url { .. } => pin.map(|pin| pin.sha256.clone()),
    }
}

/// Where the spec, or what its tags meant before, says that it is.
pub(super) fn locate(
    source: &ModelSource,
    gathered: &Gathered,
    pin: Option<&Pin>,
    part: Part,
) -> Result<Located, ResolveError> {
    if let Some(claim) = &source.persistent_volume_claim {
        return Ok(Located::Volume(Volume::Claim(claim.clone())));
    }
    let pinned = pin.and_then(|pin| pin.image.clone());
    if let Some(image) = &source.image_volume {
        let mut image = image.clone();
        image.reference = pinned.unwrap_or(image.reference);
        return Ok(Located::Volume(Volume::Image(image)));
    }
    if let Some(map) = &source.config_map {
        let bytes = gathered.config_map_key(&map.name, &map.key, part)?;
        let sha256 = source.sha256.clone();
        let what = format!("the key `{}` of the ConfigMap `{}`", map.key, map.name);
        return Ok(Located::Source(Source::Bytes {
            what,
            bytes,
            sha256,
        }));
    }
    if let Some(url) = &source.url {
        let (url, sha256) = (url.clone(), source.sha256.clone().unwrap_or_default());
        return Ok(Located::Source(Source::Url { url, sha256 }));
    }
    if let Some(image) = &source.image {
        return Ok(Located::Source(Source::Image {
            reference: pinned.unwrap_or_else(|| image.clone()),
            credentials: gathered.credentials()?,
            sha256: source.sha256.clone(),
        }));
    }
    Err(ResolveError::from(
        part,
        ArtifactError {
            reason: "NoSource",
            message: "no source is given".to_owned(),
            is_transient: false,
            retry_after: None,
        },
    ))
}
