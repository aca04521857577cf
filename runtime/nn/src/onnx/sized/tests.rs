//! On the CPU, where all of it works but what a GPU alone has: its memory, and CUDA graphs.

use bytes::Bytes;

use super::*;
use crate::onnx::fixture;
use crate::onnx::session::{on, plain};

/// A model of `tests/data`, computed as a whole and in seats of these sizes; `None` where there is no ONNX Runtime.
fn lanes(model: &str, max_rows: Option<u64>) -> Option<(OnnxLane, SizedLane)> {
    let (library, request) = (fixture::library()?, fixture::request(model));
    let make = || plain(&library, &request);
    let (whole, again) = (make(), make());
    let sizes = sizes(&whole.inputs, &whole.outputs, max_rows).unwrap();
    let more = {
        let (library, request) = (library.clone(), request.clone());
        move |place| on(&library, &request, place)
    };
    let mut sized = SizedLane::new(again, sizes, true, Box::new(more));
    sized.prepare();
    assert!(!sized.seats.is_empty());
    Some((whole, sized))
}

/// An item whose numbers are all others than those of another `seed`.
fn item(infos: &[TensorInfo], rows: u64, seed: u64) -> Item {
    let tensor = |info: &TensorInfo| {
        let shape = shape(info, Some(rows)).unwrap();
        let len = byte_len(info.dtype, &shape).unwrap();
        let value = |index: u64| (index * 7 + seed * 31) % 97;
        let data: Vec<u8> = match info.dtype {
            DType::F32 => (0..len / 4)
                .flat_map(|index| (value(index) as f32 / 97.0).to_ne_bytes())
                .collect(),
            DType::Bool => (0..len).map(|index| (value(index) % 2) as u8).collect(),
            _ => (0..len).map(|index| value(index) as u8).collect(),
        };
        Tensor::new(info.dtype, shape, data).unwrap()
    };
    Item {
        inputs: infos.iter().map(tensor).collect(),
        rows,
    }
}

/// The same numbers at an address that suits nothing but bytes.
fn misaligned(item: &Item) -> Item {
    let tensor = |tensor: &Tensor| {
        let mut bytes = vec![0; tensor.data().len() + 16];
        let at = (0..16)
            .find(|at| bytes.as_ptr().addr().wrapping_add(*at) % 8 == 1)
            .unwrap();
        bytes[at..at + tensor.data().len()].copy_from_slice(tensor.data());
        let data = Bytes::from(bytes).slice(at..at + tensor.data().len());
        Tensor::new(tensor.dtype(), tensor.shape().to_vec(), data).unwrap()
    };
    Item {
        inputs: item.inputs.iter().map(tensor).collect(),
        rows: item.rows,
    }
}

fn run(lane: &mut SizedLane, items: &[Item]) -> Vec<Vec<Tensor>> {
    let abort = Abort::new(1);
    let answers = lane.run(items, &abort).now_or_never().unwrap();
    answers.unwrap()
}

/// Would fail if an item got another's rows, or rows that were made up, or if a type's bytes came through changed.
#[test]
fn whatever_the_size_each_item_gets_what_it_gets_alone() {
    let Some((mut whole, mut sized)) = lanes("types", Some(4)) else {
        return;
    };
    assert_eq!(sized.sizes, Sizes::Rows(vec![1, 2, 4]));
    let infos = std::sync::Arc::clone(&whole.inputs);
    // Exact, filled up, in several groups, larger than any size, and without rows.
    for rows in [
        &[1][..],
        &[2],
        &[3],
        &[1, 1, 2],
        &[2, 1],
        &[3, 3, 1, 1],
        &[4, 1],
        &[9],
        &[1, 9, 2],
        &[0],
    ] {
        let items: Vec<Item> = (0..)
            .zip(rows)
            .map(|(seed, rows)| item(&infos, *rows, seed))
            .collect();
        let alone = |item: &Item| {
            let answers = whole.compute(std::slice::from_ref(item), &Abort::new(1));
            answers.unwrap().remove(0)
        };
        let expected: Vec<Vec<Tensor>> = items.iter().map(alone).collect();
        assert_eq!(run(&mut sized, &items), expected, "{rows:?}");
        let moved: Vec<Item> = items.iter().map(misaligned).collect();
        assert_eq!(run(&mut sized, &moved), expected, "{rows:?}, misaligned");
    }
}

/// Would fail if what was computed before were still in a buffer.
#[test]
fn a_larger_batch_leaves_nothing_behind() {
    let Some((_, mut sized)) = lanes("types", Some(4)) else {
        return;
    };
    let infos = std::sync::Arc::clone(&sized.whole.inputs);
    run(&mut sized, &[item(&infos, 4, 1)]);
    run(&mut sized, &[item(&infos, 3, 2)]);
    for (info, input) in infos.iter().zip(&sized.seats[2].inputs) {
        let bytes = io::bytes(&input.host, info.dtype).unwrap();
        let (_, last) = bytes.split_at(bytes.len() / 4 * 3);
        assert!(last.iter().all(|byte| *byte == 0), "{info}");
    }
}

/// Would fail if a model that says its size were filled up, or asked for one.
#[test]
fn a_model_with_a_size_of_its_own_has_one_seat() {
    let Some((mut whole, mut sized)) = lanes("fixed", None) else {
        return;
    };
    assert_eq!((&sized.sizes, sized.seats.len()), (&Sizes::Fixed, 1));
    let infos = std::sync::Arc::clone(&whole.inputs);
    for seed in 0..3 {
        let item = item(&infos, 1, seed);
        let expected = whole.compute(std::slice::from_ref(&item), &Abort::new(1));
        assert_eq!(run(&mut sized, &[item]), expected.unwrap());
    }
}

/// Would fail if an input of which the model doesn't say how many dimensions it has passed for a scalar.
#[test]
fn what_has_another_shape_than_the_seat_is_computed_as_a_whole() {
    let Some((mut whole, mut sized)) = lanes("any-rank", None) else {
        return;
    };
    for shape in [&[][..], &[2, 3], &[0], &[1]] {
        let count = shape.iter().product::<u64>();
        let data: Vec<u8> = (0..count)
            .flat_map(|index| (index as f32).to_ne_bytes())
            .collect();
        let item = Item {
            inputs: vec![Tensor::new(DType::F32, shape, data).unwrap()],
            rows: shape.first().copied().unwrap_or(0),
        };
        let expected = whole.compute(std::slice::from_ref(&item), &Abort::new(1));
        assert_eq!(run(&mut sized, &[item]), expected.unwrap(), "{shape:?}");
    }
}

#[test]
fn a_model_that_leaves_more_open_has_no_sizes() {
    let info = |dims: &[Option<u64>]| TensorInfo {
        name: "x".to_owned(),
        dtype: DType::F32,
        dims: dims.to_vec(),
    };
    let images = [info(&[None, Some(3)])];
    let words = [info(&[None, None])];
    let sizes = |inputs: &[TensorInfo], outputs: &[TensorInfo], rows| sizes(inputs, outputs, rows);
    assert_eq!(
        sizes(&images, &images, Some(3)),
        Some(Sizes::Rows(vec![1, 2, 3]))
    );
    assert_eq!(sizes(&images, &images, None), None);
    assert_eq!(sizes(&images, &words, Some(3)), None);
    assert_eq!(sizes(&words, &images, Some(3)), None);
    assert_eq!(sizes(&[info(&[Some(1), Some(0)])], &images, Some(3)), None);
    assert_eq!(
        sizes(&[info(&[None, Some(1 << 40)])], &images, Some(3)),
        None
    );
    assert_eq!(sizes(&[info(&[])], &[info(&[])], None), Some(Sizes::Fixed));
}
