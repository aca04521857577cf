//! Which layer of a manifest is the component, or the model?

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::pull::Kind;
use super::{KNOWN_ANNOTATIONS, OLD_WASM_LAYER, TITLE, UNPACK, WASM_LAYER};
use crate::error::Error;
use crate::reference::is_sha256;

/// An image manifest or an image index; which one, its fields tell.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// What is said of a blob or a manifest. Of one that is read, only the annotations that mean something here.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "known"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

/// The most layers, or manifests of an index: images have 127 layers at most, and what refers to an image comes in pages of
/// fewer. A small manifest could name a hundred thousand, which would take a hundred times its memory.
const MOST: usize = 4096;

/// Reads [`MOST`] at most.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Descriptor>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Descriptor>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST} descriptors")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut few = Vec::new();
            while let Some(descriptor) = all.next_element()? {
                if few.len() == MOST {
                    return Err(A::Error::custom(format_args!(
                        "it names more than {MOST} blobs or manifests"
                    )));
                }
                few.push(descriptor);
            }
            Ok(few)
        }

        // Programs in Go write `null` where there are none.
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
    }
    deserializer.deserialize_any(Few)
}

/// Reads the annotations that mean something here, and leaves out all others.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Known;
    impl<'de> Visitor<'de> for Known {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("annotations")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut known = BTreeMap::new();
            while let Some((key, value)) = all.next_entry::<String, String>()? {
                if KNOWN_ANNOTATIONS.contains(&key.as_str()) {
                    known.insert(key, value);
                }
            }
            Ok(known)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
    }
    deserializer.deserialize_any(Known)
}

impl Descriptor {
    /// The digest in lower-case hex, where it is a SHA-256.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.digest
            .strip_prefix("sha256:")
            .filter(|sha256| is_sha256(sha256))
    }

    /// Whether it says how another of its index was built: `docker buildx` adds one to each.
    fn is_attestation(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|it| it.architecture == "unknown" && it.os == "unknown")
    }

    fn title(&self) -> Option<&str> {
        self.annotations.get(TITLE).map(String::as_str)
    }

    /// Whether its bytes are the file itself, not an archive that holds it.
    fn is_file(&self) -> bool {
        let packed = self
            .annotations
            .get(UNPACK)
            .is_some_and(|value| value == "true");
        let archive = [".tar", "+tar", "+gzip", ".gzip", "+zstd"]
            .iter()
            .any(|end| self.media_type.ends_with(end))
            || self.media_type.contains(".tar.");
        // `oras push` calls every file a tar unless it is told otherwise, and gives it a title.
        !packed && (!archive || self.title().is_some())
    }
}

impl Manifest {
    /// The manifest of an index that is meant: for a component the one for Wasm's architecture, or else the only one.
    pub(crate) fn member(&self, kind: Kind, what: &str) -> Result<&Descriptor, Error> {
        let mut members: Vec<_> = self.manifests.iter().collect();
        if members.len() > 1 {
            members.retain(|member| !member.is_attestation());
        }
        let is_wasm = |member: &&Descriptor| {
            let platform = member.platform.as_ref();
            platform.is_some_and(|platform| platform.architecture == "wasm")
        };
        let wasm = members.iter().copied().find(is_wasm);
        match (kind, wasm, members.as_slice()) {
            (Kind::Component, Some(member), _) => Ok(member),
            (_, _, [only]) => Ok(only),
            (Kind::Component, None, members) => Err(kind.refuse(
                what,
                format!(
                    "it is an index of {} images, none of which is for the architecture `wasm`",
                    members.len()
                ),
            )),
            (Kind::Model, _, members) => Err(kind.refuse(
                what,
                format!(
                    "it is an index of {} images where one is expected",
                    members.len()
                ),
            )),
        }
    }

    /// The layer that holds what is asked for.
    pub(crate) fn layer(&self, kind: Kind, what: &str) -> Result<&Descriptor, Error> {
        let found = match kind {
            Kind::Component => self
                .layers
                .iter()
                .filter(|layer| [WASM_LAYER, OLD_WASM_LAYER].contains(&layer.media_type.as_str()))
                .collect(),
            Kind::Model => self.files(),
        };
        match found.as_slice() {
            [layer] => Ok(layer),
            [] => Err(kind.refuse(
                what,
                match self.layers.as_slice() {
                    [] => "it has no layers".to_owned(),
                    [layer] => format!("its layer is of the type {}", layer.media_type),
                    [first, ..] => format!(
                        "it has {} layers, the first of the type {}",
                        self.layers.len(),
                        first.media_type
                    ),
                },
            )),
            several => Err(kind.refuse(
                what,
                format!(
                    "it holds {} files where one is expected{}",
                    several.len(),
                    several
                        .iter()
                        .filter_map(|layer| layer.title())
                        .take(8)
                        .map(|title| format!(" `{}`", title.escape_debug()))
                        .collect::<String>()
                ),
            )),
        }
    }

    /// The layers that are files: those with titles where there are any.
    fn files(&self) -> Vec<&Descriptor> {
        let files = || self.layers.iter().filter(|layer| layer.is_file());
        let titled: Vec<_> = files().filter(|layer| layer.title().is_some()).collect();
        if titled.is_empty() {
            files().collect()
        } else {
            titled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media_type: &str, title: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            annotations: title
                .map(|title| (TITLE.to_owned(), title.to_owned()))
                .into_iter()
                .collect(),
            ..Descriptor::default()
        }
    }

    fn manifest(layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            layers,
            ..Manifest::default()
        }
    }

    /// Would fail if a manifest of a few megabytes could take hundreds, or what real ones say weren't read.
    #[test]
    fn a_manifest_that_names_too_much_is_refused() {
        let read = |text: &str| serde_json::from_str::<Manifest>(text);
        let layers = |one: &str, count: usize| {
            let all = vec![one; count].join(",");
            read(&format!(r#"{{"layers": [{all}]}}"#)).map_err(|error| error.to_string())
        };
        let one = r#"{"digest": "sha256:0"}"#;
        assert_eq!(layers(one, MOST).unwrap().layers.len(), MOST);
        let error = layers(one, MOST + 1).unwrap_err();
        assert!(error.contains("more than 4096"), "{error}");
        let error = layers("{}", 1).unwrap_err();
        assert!(error.contains("`digest`"), "{error}");

        let manifest = read(&format!(
            r#"{{"manifests": null, "layers": [{{"digest": "d", "annotations": {{"a": "b", "{TITLE}": "m"}}}},
                {{"digest": "d", "annotations": null}}]}}"#
        ))
        .unwrap();
        assert!(manifest.manifests.is_empty());
        let [first, second] = manifest.layers.as_slice() else {
            panic!("{manifest:?}");
        };
        assert_eq!((first.title(), first.annotations.len()), (Some("m"), 1));
        assert!(second.annotations.is_empty());
    }

    #[test]
    fn a_component_is_the_one_layer_of_a_wasm_type() {
        for media_type in [WASM_LAYER, OLD_WASM_LAYER] {
            let manifest = manifest(vec![
                layer("text/plain", Some("x")),
                layer(media_type, None),
            ]);
            let found = manifest.layer(Kind::Component, "r.io/a:1").unwrap();
            assert_eq!(found.media_type, media_type);
        }
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (layers, why) in [
            (vec![], "it has no layers"),
            (vec![layer(tar, None)], tar),
            (vec![layer(tar, None), layer(tar, None)], "2 layers"),
            (
                vec![layer(WASM_LAYER, Some("a")), layer(WASM_LAYER, Some("b"))],
                "2 files where one is expected `a` `b`",
            ),
        ] {
            let error = manifest(layers)
                .layer(Kind::Component, "r.io/a:1")
                .unwrap_err();
            assert_eq!(error.reason(), "NotWasm");
            let text = error.to_string();
            assert!(text.contains(why) && text.contains("r.io/a:1"), "{text}");
        }
    }

    #[test]
    fn a_model_is_the_only_file_or_the_one_with_a_title() {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        for layers in [
            vec![layer("application/octet-stream", None)],
            vec![layer(tar, Some("m.onnx"))],
            vec![layer("text/plain", None), layer("x/y", Some("m.onnx"))],
        ] {
            manifest(layers).layer(Kind::Model, "r.io/a:1").unwrap();
        }
        let mut packed = layer(tar, Some("folder"));
        packed.annotations.insert(UNPACK.into(), "true".into());
        for layers in [
            vec![layer(tar, None)],
            vec![layer(
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                None,
            )],
            vec![packed],
            vec![layer("a/b", Some("x")), layer("a/b", Some("y"))],
        ] {
            let error = manifest(layers).layer(Kind::Model, "r.io/a:1").unwrap_err();
            assert_eq!(error.reason(), "NotModel");
        }
    }

    /// Would fail if an image that was built with its attestation were refused for having two, or one of several were guessed.
    #[test]
    fn the_member_of_an_index_that_is_meant_is_found() {
        let index = |architectures: &[&str]| Manifest {
            manifests: architectures
                .iter()
                .map(|architecture| Descriptor {
                    media_type: (*architecture).to_owned(),
                    platform: Some(Platform {
                        architecture: (*architecture).to_owned(),
                        os: (*architecture).to_owned(),
                    }),
                    ..layer("", None)
                })
                .collect(),
            ..Manifest::default()
        };
        for (architectures, component, model) in [
            (&["amd64"][..], Ok("amd64"), Ok("amd64")),
            (&["unknown"], Ok("unknown"), Ok("unknown")),
            (&["amd64", "unknown"], Ok("amd64"), Ok("amd64")),
            (
                &["amd64", "unknown", "wasm", "unknown"],
                Ok("wasm"),
                Err("2 images where one is expected"),
            ),
            (
                &["amd64", "arm64", "unknown"],
                Err("2 images, none of which is for the architecture `wasm`"),
                Err("2 images where one is expected"),
            ),
        ] {
            let index = index(architectures);
            for (kind, expected) in [(Kind::Component, component), (Kind::Model, model)] {
                match (index.member(kind, "r.io/a:1"), expected) {
                    (Ok(found), Ok(expected)) => assert_eq!(found.media_type, expected),
                    (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
                    other => panic!("{architectures:?}: {other:?}"),
                }
            }
        }
    }
}
