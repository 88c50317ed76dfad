//! The tests of bodies: what comes back, what is refused, and what the specification shows.
#![allow(clippy::unwrap_used)]

mod container_refusals;
mod difference_refusals;
mod differences;
mod example;
mod golden;
mod literal;
mod round_trip;
mod safetensors;
mod special_values;

use super::*;
use app::api::Encoding;
use std::sync::Arc;

/// A schema of F32 and I64 tensors, by name, dtype and shape.
fn schema(tensors: &[(&str, Dtype, &[u64])]) -> Arc<Schema> {
    let spec = |&(name, dtype, shape): &(&str, Dtype, &[u64])| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    Arc::new(Schema::new(tensors.iter().map(spec).collect()).unwrap())
}

/// Vectors of F32 and I64, by name.
fn parameters(tensors: &[(&str, Values)]) -> Parameters {
    let shapes: Vec<_> = tensors.iter().map(|(_, v)| [v.len() as u64]).collect();
    let specs: Vec<_> = tensors.iter().zip(&shapes).map(|((name, v), s)| (*name, v.dtype(), &s[..])).collect();
    let schema = schema(&specs);
    let mut tensors = tensors.to_vec();
    tensors.sort_by(|a, b| a.0.cmp(b.0));
    Parameters::new(schema, tensors.into_iter().map(|(_, values)| values).collect())
}

/// Three values and a counter.
fn tiny() -> Parameters {
    parameters(&[("w", Values::F32(vec![1.0, -2.5, 0.0])), ("n", Values::I64(vec![7]))])
}

/// The bits of every value: `==` on f32 takes -0.0 for 0.0.
fn bits(parameters: &Parameters) -> Vec<Vec<u64>> {
    let of = |values: &Values| match values {
        Values::F32(v) => v.iter().map(|v| u64::from(v.to_bits())).collect(),
        Values::I64(v) => v.iter().map(|v| *v as u64).collect(),
    };
    parameters.values().iter().map(of).collect()
}

/// A container with blocks of so many values.
fn in_blocks_of(
    block_values: usize,
    parameters: &Parameters,
    encoding: Encoding,
    base_version: Option<u64>,
) -> Result<Vec<u8>, EncodeError> {
    let source = super::block::Source { parameters, base: None, residual: None, thresholds: &[], seed: None };
    super::container::encode_blocks_of(block_values, &source, encoding, base_version, None)
}

/// What a container says before its blocks.
fn plan_of(body: &[u8]) -> Plan {
    Plan::of(BodyFormat::Container, body).unwrap()
}

#[test]
fn the_distance_is_of_all_floats_and_of_no_integer() {
    let of = |value, n, count| {
        let (a, b) = (Values::F32(vec![value; n]), Values::F32(vec![-value / 2.0]));
        parameters(&[("a", a), ("b", b), ("n", Values::I64(vec![count]))])
    };
    let distance = |a: Parameters, b: Parameters| {
        let body = in_blocks_of(7, &a, Encoding::F32, None).unwrap();
        let plan = plan_of(&body);
        let blocks = 0..plan.blocks_within(body.len() as u64);
        let sinks = vec![Distance::default(); blocks.len()];
        let base = Base { version: 0, parameters: &b };
        let sums = plan.read_changes(&body[..], base, blocks, sinks).unwrap();
        sums.iter().map(Distance::squared).sum::<f64>().sqrt()
    };
    assert_eq!(distance(of(3.0, 2, 99), of(1.0, 2, 0)), 3.0);
    assert_eq!(distance(of(3.0, 20, 99), of(1.0, 20, 0)), 9.0);
    assert_eq!(distance(of(f32::MAX, 1, 0), of(0.0, 1, 0)), f64::from(f32::MAX) * 1.25f64.sqrt());
}

#[test]
fn the_largest_body_holds_every_value_and_a_header() {
    let schema = schema(&[("w", Dtype::F32, &[10]), ("n", Dtype::I64, &[3])]);
    assert_eq!(max_body_bytes(&schema), 40 + 24 + MAX_HEADER_BYTES as u64);
}
