//! The parameters of the run `tiny`, and bodies of them.

use app::api::Encoding;
use fedlearn::wire::{self, Dtype, ModelFormat, Parameters, Schema, TensorSpec, Values};
use std::sync::Arc;

/// A matrix and a counter.
pub fn schema() -> Arc<Schema> {
    let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
    Arc::new(Schema::new(vec![spec("n", Dtype::I64, vec![1]), spec("w", Dtype::F32, vec![2, 3])]).unwrap())
}

/// The matrix full of this value.
pub fn with(value: f32) -> Parameters {
    Parameters::new(schema(), vec![Values::I64(vec![1]), Values::F32(vec![value; 6])])
}

/// The value that a matrix made by [`with`] is full of.
pub fn value_of(body: &[u8]) -> f32 {
    let parameters = wire::safe::read(body, &schema()).unwrap();
    let Values::F32(values) = &parameters.values()[1] else { panic!("not F32") };
    assert!(values.iter().all(|v| v == &values[0]), "{values:?}");
    values[0]
}

/// As `application/vnd.safetensors`.
pub fn safetensors(parameters: &Parameters) -> Vec<u8> {
    ModelFormat::Safetensors { zstd: false }.write(parameters, None).unwrap()
}

/// As `application/vnd.fedlearn.params`.
pub fn container(parameters: &Parameters, base_version: u64) -> Vec<u8> {
    wire::encode(parameters, Encoding::F32, Some(base_version)).unwrap()
}
