use std::path::Path;

use serde_json::Value;

use super::signed::MOST_SIGNATURES;
use super::*;

const IMAGE: &str = "1371dfa64c821749116f315ae7bb65fa10411ca06e291572658531ee391f2d83";

/// A file that cosign made.
fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cosign");
    std::fs::read(path.join(name)).unwrap()
}

fn keys(name: &str) -> Vec<PublicKey> {
    PublicKey::all(&String::from_utf8(file(name)).unwrap()).unwrap()
}

/// The signature that a layer of a `.sig` manifest has.
fn simple(folder: &str, layer: usize) -> Signed {
    let manifest: Value =
        serde_json::from_slice(&file(&format!("{folder}/manifest.json"))).unwrap();
    let signature = manifest["layers"][layer]["annotations"]["dev.cosignproject.cosign/signature"]
        .as_str()
        .unwrap();
    Signed::simple(&file(&format!("{folder}/payload.json")), signature).unwrap()
}

fn bundle(folder: &str) -> Signed {
    Signed::bundle(&file(&format!("{folder}/bundle.json"))).unwrap()
}

/// Would fail if a signature that cosign made with some kind of key were refused.
#[test]
fn what_cosign_signs_holds_for_its_key_alone() {
    for (key, signed) in [
        ("cosign.pub", bundle("bundle")),
        ("cosign.pub", simple("simple", 1)),
        ("other.pub", simple("simple", 0)),
        ("p384/key.pub", bundle("p384")),
        ("p384/key.pub", simple("p384", 0)),
        ("rsa/key.pub", bundle("rsa")),
        ("rsa/key.pub", simple("rsa", 0)),
    ] {
        for other in ["cosign.pub", "other.pub", "p384/key.pub", "rsa/key.pub"] {
            let expected = if other == key {
                Judgement::Holds
            } else {
                Judgement::Stranger
            };
            assert_eq!(signed.judge(IMAGE, &keys(other)), expected, "{key} {other}");
        }
        let both = [keys("p384/key.pub"), keys(key)].concat();
        assert_eq!(signed.judge(IMAGE, &both), Judgement::Holds, "{key}");
        assert_eq!(signed.judge(IMAGE, &[]), Judgement::Stranger, "{key}");
    }
}

/// Would fail if a bundle had as many signatures checked as somebody writes into it, which takes as long as they like.
#[test]
fn a_bundle_has_few_signatures() {
    let mut json: Value = serde_json::from_slice(&file("bundle/bundle.json")).unwrap();
    let own = json["dsseEnvelope"]["signatures"][0].clone();
    let mut with = |count: usize| {
        let mut signatures = vec![serde_json::json!({"sig": ""}); count - 1];
        signatures.push(own.clone());
        json["dsseEnvelope"]["signatures"] = signatures.into();
        Signed::bundle(json.to_string().as_bytes())
    };
    let signed = with(MOST_SIGNATURES).unwrap();
    assert_eq!(signed.judge(IMAGE, &keys("cosign.pub")), Judgement::Holds);
    assert_eq!(with(MOST_SIGNATURES + 1), None);
}

/// Would fail if the signature of one image, or of something that is no signature, let another pass.
#[test]
fn what_is_signed_is_one_image() {
    let key = keys("cosign.pub");
    let other = "0".repeat(64);
    for signed in [bundle("bundle"), simple("simple", 1)] {
        let named = format!("sha256:{IMAGE}");
        assert_eq!(signed.judge(&other, &key), Judgement::Other(named));
    }
    let Judgement::Other(what) = bundle("attestation").judge(IMAGE, &key) else {
        panic!("an attestation is no signature");
    };
    assert_eq!(
        what,
        "an attestation of the type https://cosign.sigstore.dev/attestation/v1"
    );
}

/// Would fail if anything of what was signed could be altered.
#[test]
fn altered_bytes_are_not_signed() {
    let key = keys("cosign.pub");
    for signed in [bundle("bundle"), simple("simple", 1)] {
        for index in [0, signed.payload().len() / 2, signed.payload().len() - 1] {
            let altered = signed.clone().altered(index);
            assert_eq!(altered.judge(IMAGE, &key), Judgement::Stranger, "{index}");
        }
    }
    // The same payload, in the other form.
    let text = String::from_utf8(file("bundle/bundle.json")).unwrap();
    let other = text.replace("application/vnd.in-toto+json", "application/vnd.cosign");
    assert_eq!(Signed::bundle(other.as_bytes()), None);
    for text in ["", "{}", "null", "{\"dsseEnvelope\":{}}", "<html>"] {
        assert_eq!(Signed::bundle(text.as_bytes()), None, "{text}");
    }
    assert_eq!(Signed::simple(b"{}", "no base64!"), None);
    let unsigned = Signed::simple(b"{}", "").unwrap();
    assert_eq!(unsigned.judge(IMAGE, &key), Judgement::Stranger);
}

#[test]
fn keys_are_read_as_cosign_writes_them() {
    let text = String::from_utf8([file("cosign.pub"), file("other.pub")].concat()).unwrap();
    let both = PublicKey::all(&text).unwrap();
    assert_eq!(both, [keys("cosign.pub"), keys("other.pub")].concat());
    assert_ne!(both[0].id(), both[1].id());
    let private = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n";
    for (text, error) in [
        ("", KeyError::None),
        (private, KeyError::None),
        (
            &String::from_utf8(file("p521.pub")).unwrap(),
            KeyError::Unknown,
        ),
        (
            &String::from_utf8(file("ed25519.pub")).unwrap(),
            KeyError::Unknown,
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
            KeyError::Unreadable,
        ),
    ] {
        assert_eq!(PublicKey::all(text), Err(error), "{text}");
    }
}
