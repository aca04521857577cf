//! Tensors that are none, models that aren't there, and how much a guest may hold of either: asked through upstream's
//! `wasi:nn`, by a guest that has no SDK to check anything first. It answers with what it was told.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::NonZeroU64;

use http::StatusCode;
use wisp_contract::FunctionConfig;
use wisp_contract::problem::Fault;
use wisp_integration::{Host, component, onnxruntime, refused, small_model};

/// A host of the guest without an SDK with some models, where ONNX Runtime is here.
async fn host(models: &[&str], change: impl FnOnce(&mut FunctionConfig)) -> Option<Host> {
    let library = onnxruntime()?;
    let host = Host::with_models(&component("fixture-nn"), &library, |config| {
        config.models = models.iter().map(|name| small_model(name)).collect();
        change(config);
    })
    .await;
    Some(host.unwrap())
}

async fn get(host: &Host, path: &str) -> (u16, String) {
    let answer = host.client().get(path).await.unwrap();
    (answer.status.as_u16(), answer.text())
}

#[tokio::test]
async fn upstreams_interface_works_without_the_sdk() {
    let Some(host) = host(&["add", "grow", "scalar"], |_| {}).await else {
        return;
    };
    for (path, outputs) in [
        ("/compute?add&a:FP32:1,2:8&b:FP32:1,2:8", "y:FP32:1,2:8"),
        ("/compute?add&b:FP32:3,2:24&a:FP32:3,2:24", "y:FP32:3,2:24"),
        ("/compute?grow&x:FP32:2,1:8", "y:FP32:2,8:64"),
        ("/compute?scalar&x:FP32::4", "y:FP32:1:4"),
    ] {
        assert_eq!(get(&host, path).await, (200, outputs.to_owned()), "{path}");
    }
    // Rows of nothing are rows.
    let (status, text) = get(&host, "/compute?add&a:FP32:0,2:0&b:FP32:0,2:0").await;
    assert_eq!((status, text.as_str()), (200, "y:FP32:0,2:0"));
}

#[tokio::test]
async fn every_tensor_that_a_model_does_not_take_is_refused_with_what_it_takes() {
    let Some(host) = host(&["add", "fixed", "lookup"], |_| {}).await else {
        return;
    };
    // The bits of a float's NaN, taken for a whole number.
    let nan = f32::NAN.to_bits();
    let garbage = format!("{nan},{nan},{nan}");
    for (query, told) in [
        // Rank.
        (
            "add&a:FP32:2:8",
            "InvalidArgument: input `a`: expected f32[?,2], got f32[2]",
        ),
        (
            "add&a:FP32::4",
            "InvalidArgument: input `a`: expected f32[?,2], got f32[]",
        ),
        (
            "add&a:FP32:1,2,1:8",
            "InvalidArgument: input `a`: expected f32[?,2], got f32[1,2,1]",
        ),
        (
            &format!("add&a:FP32:{}:4", ["1"; 33].join(",")),
            "InvalidArgument: input `a`: a tensor has at most 32 dimensions, got 33",
        ),
        // Type.
        (
            "add&a:I32:1,2:8",
            "InvalidArgument: input `a`: expected f32[?,2], got i32[1,2]",
        ),
        (
            "add&a:BF16:1,2:4",
            "InvalidArgument: input `a`: expected f32[?,2], got bf16[1,2]",
        ),
        // Bytes.
        (
            "add&a:FP32:1,2:0",
            "InvalidArgument: input `a`: f32[1,2] takes 8 bytes, got 0",
        ),
        (
            "add&a:FP32:1,2:7",
            "InvalidArgument: input `a`: f32[1,2] takes 8 bytes, got 7",
        ),
        (
            "add&a:FP32:1,2:9",
            "InvalidArgument: input `a`: f32[1,2] takes 8 bytes, got 9",
        ),
        (
            "add&a:FP32:0,2:4",
            "InvalidArgument: input `a`: f32[0,2] takes 0 bytes, got 4",
        ),
        // Dimensions.
        (
            "fixed&a:FP32:2,2:16",
            "InvalidArgument: input `a`: expected f32[1,2], got f32[2,2]",
        ),
        (
            "add&a:FP32:1,3:12",
            "InvalidArgument: input `a`: expected f32[?,2], got f32[1,3]",
        ),
        (
            &format!("add&a:U8:{nan}:1"),
            "InvalidArgument: input `a`: u8[2143289344] takes 2143289344 bytes, got 1",
        ),
        (
            &format!("add&a:FP32:{garbage}:4"),
            "InvalidArgument: input `a`: f32[2143289344,2143289344,2143289344] is more bytes than there can be",
        ),
        // 2^63 elements of a byte, and 2^63 of four.
        (
            "add&a:U8:2147483648,2147483648,2:1",
            "InvalidArgument: input `a`: u8[2147483648,2147483648,2] takes 9223372036854775808 bytes, got 1",
        ),
        (
            "add&a:FP32:2147483648,2147483648,2:1",
            "InvalidArgument: input `a`: f32[2147483648,2147483648,2] is more bytes than there can be",
        ),
        (
            "add&a:FP64:4294967295,4294967295,4294967295,4294967295:0",
            "InvalidArgument: input `a`: f64[4294967295,4294967295,4294967295,4294967295] is more bytes than there can be",
        ),
        (
            "add&a:FP32:4294967295,0:0",
            "InvalidArgument: input `a`: expected f32[?,2], got f32[4294967295,0]",
        ),
        // Names.
        (
            "add&c:FP32:1,2:8",
            "InvalidArgument: model `add` has no input `c`: its inputs are `a: f32[?,2]`, `b: f32[?,2]`",
        ),
        (
            "add&:FP32:1,2:8",
            "InvalidArgument: model `add` has no input ``: its inputs are `a: f32[?,2]`, `b: f32[?,2]`",
        ),
        (
            "add&a:FP32:1,2:8",
            "InvalidArgument: input `b` of model `add` is missing: expected f32[?,2]",
        ),
        (
            "add&a:FP32:1,2:8&a:FP32:1,2:8",
            "InvalidArgument: input `a` of model `add` was given twice",
        ),
        (
            "add",
            "InvalidArgument: input `a` of model `add` is missing: expected f32[?,2]",
        ),
        (
            "ad",
            "NotFound: there is no model `ad`: the function's models are `add`, `fixed`, `lookup`",
        ),
        (
            "",
            "NotFound: there is no model ``: the function's models are `add`, `fixed`, `lookup`",
        ),
    ] {
        let (status, text) = get(&host, &format!("/compute?{query}")).await;
        assert_eq!((status, text.as_str()), (400, told), "{query}");
        assert_eq!(
            get(&host, "/compute?add&a:FP32:1,2:8&b:FP32:1,2:8").await.0,
            200,
            "after {query}"
        );
    }
    // What only the model itself can tell: rows that don't go together.
    let (status, text) = get(&host, "/compute?add&a:FP32:2,2:16&b:FP32:3,2:24").await;
    assert_eq!(status, 400);
    assert!(
        text.starts_with("RuntimeError: model `add` failed: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_tensor_that_is_none_can_still_be_looked_at() {
    let Some(host) = host(&[], |_| {}).await else {
        return;
    };
    for text in [
        "FP64:4294967295,4294967295:0",
        "U8:2143289344:3",
        "I64::0",
        "BF16:0,0,0:1",
    ] {
        assert_eq!(
            get(&host, &format!("/tensor?{text}")).await,
            (200, text.to_owned())
        );
    }
    let many = vec!["1"; 33].join(",");
    assert_eq!(
        get(&host, &format!("/tensor?U8:{many}:1")).await,
        (200, "U8::0".to_owned())
    );
}

#[tokio::test]
async fn a_guest_that_expects_no_error_fails_alone() {
    let Some(host) = host(&["add"], |_| {}).await else {
        return;
    };
    let answer = host
        .client()
        .get("/must-compute?add&a:FP32:1,2:7")
        .await
        .unwrap();
    let problem = refused(&host, &answer, 502, "trapped", Fault::Function).await;
    // Whoever wrote it finds in the log what the client isn't told.
    host.line("what it was told", |line| {
        line.request_id.as_deref() == Some(&*problem.request_id)
            && line.message.contains("f32[1,2] takes 8 bytes, got 7")
    })
    .await
    .unwrap();
}

/// Would fail if anything that a guest can hold counted against no limit: dimensions, bytes, or what it was told.
#[tokio::test]
async fn whatever_a_guest_hoards_is_bounded() {
    let Some(host) = host(&["add"], |config| {
        config.limits.tensors = NonZeroU64::new(8 << 20).unwrap();
    })
    .await
    else {
        return;
    };
    let before = host.peak_memory().unwrap();
    let bound = before + (400 << 20);

    // 900 lists of a million dimensions are 3.6 GB.
    let (status, text) = get(&host, "/hoard-dimensions?900&1000000").await;
    assert_eq!((status, text.as_str()), (200, "900"));
    assert!(host.peak_memory().unwrap() < bound, "dimensions");

    // 900 names of four megabytes, too.
    let (status, text) = get(&host, "/hoard-errors?add&900&4000000").await;
    assert_eq!(status, 200);
    assert!(
        text.starts_with("model `add` has no input `xxx") && text.len() < 1000,
        "{text}"
    );
    assert!(host.peak_memory().unwrap() < bound, "errors");

    // Of 900 tensors of four megabytes the first two fit.
    let (status, text) = get(&host, "/hoard-bytes?900&4194304").await;
    assert_eq!((status, text.as_str()), (200, "2"));
    assert!(host.peak_memory().unwrap() < bound, "bytes");

    let answer = host.client().get("/hoard-bytes?10000&1").await.unwrap();
    let problem = refused(&host, &answer, 502, "handles-exceeded", Fault::Function).await;
    assert!(
        problem.detail.contains("(limits.handles)"),
        "{}",
        problem.detail
    );
}

#[tokio::test]
async fn what_exceeds_the_budget_is_told_with_the_limit() {
    let Some(host) = host(&["add", "grow"], |config| {
        config.limits.tensors = NonZeroU64::new(100).unwrap();
    })
    .await
    else {
        return;
    };
    for (query, told) in [
        (
            "add&a:FP32:1,26:104",
            "TooLarge: input `a`: 104 bytes of tensors are too many: 0 of 100 are in use (limits.tensors)",
        ),
        (
            "grow&x:FP32:4,1:16",
            "TooLarge: output `y`, f32[4,8]: 128 bytes of tensors are too many: 0 of 100 are in use (limits.tensors)",
        ),
    ] {
        assert_eq!(
            get(&host, &format!("/compute?{query}")).await,
            (400, told.to_owned())
        );
    }
    assert_eq!(
        host.client().get("/hello").await.unwrap().status,
        StatusCode::OK
    );
}
