use bytes::Bytes;

use super::{Code, DType, Error, Model, Tensor};
use crate::test;

fn run(inputs: Vec<(&str, Tensor)>) -> Result<super::Outputs, Error> {
    test::block_on(async { Model::open("m")?.run(inputs).await })
}

#[test]
fn elements_survive_as_bytes_in_every_type() {
    fn check<T: super::Element + PartialEq + std::fmt::Debug>(elements: &[T], dtype: DType) {
        let tensor = Tensor::new([elements.len()], elements).unwrap();
        assert_eq!(tensor.dtype(), dtype);
        assert_eq!(tensor.bytes().len(), elements.len() * dtype.size());
        // At an odd address, as bytes from a host may lie.
        let mut shifted = vec![0];
        shifted.extend_from_slice(tensor.bytes());
        let shifted = Bytes::from(shifted).slice(1..);
        let again = Tensor::from_bytes(dtype, [elements.len()], shifted).unwrap();
        assert_eq!(again.to_vec::<T>().unwrap(), elements);
    }
    check(&[1.5_f32, -0.0, f32::INFINITY], DType::F32);
    check(&[1.5_f64, f64::MIN_POSITIVE], DType::F64);
    check(&[0_u8, 255], DType::U8);
    check(&[i32::MIN, -1], DType::I32);
    check(&[i64::MAX, -1], DType::I64);
    #[cfg(feature = "half")]
    {
        check(&[half::f16::from_f32(1.5)], DType::F16);
        check(&[half::bf16::from_f32(1.5)], DType::BF16);
    }
}

/// Would fail if a tensor of a body's bytes were a second copy of them.
#[test]
fn bytes_are_not_copied() {
    let body = Bytes::from(vec![0; 64]);
    let tensor = Tensor::from_bytes(DType::F32, [16], body.clone()).unwrap();
    assert_eq!(tensor.bytes().as_ptr(), body.as_ptr());
}

#[test]
fn shapes_of_any_rank_count_their_elements() {
    assert_eq!(
        Tensor::new([], &[1.0_f32]).unwrap().shape(),
        [] as [usize; 0]
    );
    assert_eq!(Tensor::new([0, 3], &[0_u8; 0]).unwrap().shape(), [0, 3]);
    assert_eq!(
        Tensor::new(vec![2, 2], &[1_i64; 4]).unwrap().shape(),
        [2, 2]
    );
    let error = Tensor::new([usize::MAX, 2], &[0_u8])
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("has uncountably many elements, but 1 were given"),
        "{error}"
    );
    let error = Tensor::from_bytes(DType::I64, [usize::MAX / 2], vec![0])
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("has uncountably many bytes, but 1 were given"),
        "{error}"
    );
}

#[test]
fn a_refused_input_is_named_with_type_and_shape() {
    test::model("m", |inputs| {
        let _ = inputs.get("pixels")?;
        Ok(Vec::<(&str, Tensor)>::new())
    });
    let inputs = vec![
        ("a", Tensor::new([1, 2], &[0_u8; 2]).unwrap()),
        ("b", Tensor::new([1], &[0.0_f64]).unwrap()),
    ];
    let error = run(inputs).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model `m` can't compute `a` u8[1, 2], `b` f64[1]: invalid argument: model `m` has no output `pixels`; it has \
         `a` u8[1, 2], `b` f64[1]"
    );
    assert!(matches!(
        error,
        Error::Run {
            code: Code::InvalidArgument,
            ..
        }
    ));
}

#[test]
fn a_model_without_outputs_has_no_first() {
    test::model("m", |_| Ok(Vec::<(&str, Tensor)>::new()));
    let error = run(vec![]).unwrap().first().unwrap_err().to_string();
    assert_eq!(error, "model `m` has no output `0`; it has none");
}

#[test]
fn an_unopened_model_is_a_500_that_the_log_explains() {
    let error = crate::Error::from(Model::open("mnist").unwrap_err());
    assert_eq!(error.status(), 500);
    assert_eq!(
        error.chain(),
        "model `mnist` can't be opened: not found: this test has no fake of it"
    );
}
