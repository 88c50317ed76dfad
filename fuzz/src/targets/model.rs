//! Small models of any names, shapes and values.

use super::MOST_VALUES;
use arbitrary::Arbitrary;
use fedlearn::wire::{Dtype, Parameters, Schema, TensorSpec, Values};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of a tensor: few, so that two may have the same.
#[derive(Debug, Clone, Arbitrary)]
pub enum Name {
    /// A letter.
    Letter(u8),
    /// One that has a meaning in PyTorch or in safetensors, or is awkward in JSON.
    Known(u8),
    /// Any.
    Any(String),
}

impl Name {
    /// As text.
    pub fn text(&self) -> String {
        const KNOWN: [&str; 6] =
            ["layer1.0.conv1.weight", "bn.num_batches_tracked", "__metadata__", "\"\\", "ä\u{0}", ""];
        match self {
            Self::Letter(letter) => char::from(b'a' + letter % 26).to_string(),
            Self::Known(which) => KNOWN[usize::from(*which) % KNOWN.len()].to_owned(),
            Self::Any(name) => name.clone(),
        }
    }
}

/// A dimension.
#[derive(Debug, Clone, Arbitrary)]
pub enum Dimension {
    /// 0 to 7.
    Small(u8),
    /// Around the sizes at which something ends: a group, a strip, an escaped gap.
    Border(u8),
    /// A power of two, and a little more or less.
    Power(u8, i8),
    /// Any.
    Any(u64),
}

impl Dimension {
    /// As a number.
    pub fn size(&self) -> u64 {
        const BORDERS: [u64; 8] = [15, 16, 17, 255, 256, 1_023, 1_024, 1_025];
        match self {
            Self::Small(size) => u64::from(size % 8),
            Self::Border(which) => BORDERS[usize::from(which % 8)],
            Self::Power(log, more) => (1u64 << (log % 64)).wrapping_add_signed((*more).into()),
            Self::Any(size) => *size,
        }
    }
}

/// A value.
#[derive(Debug, Clone, Arbitrary)]
pub enum Value {
    /// A small whole number, by ten.
    Tenths(i8),
    /// One that is special: zeros, subnormals, the largest, NaN, infinities.
    Special(u8),
    /// Any bits.
    Bits(u32),
}

impl Value {
    fn float(&self) -> f32 {
        const SPECIAL: [u32; 10] = [
            0x8000_0000,
            0x0000_0001,
            0x807f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x7f7f_8000,
            0x7fc0_0000,
            0x7f80_0000,
            0xff80_0000,
        ];
        match self {
            Self::Tenths(tenths) => f32::from(*tenths) / 10.0,
            Self::Special(which) => f32::from_bits(SPECIAL[usize::from(*which) % SPECIAL.len()]),
            Self::Bits(bits) => f32::from_bits(*bits),
        }
    }
}

/// A model.
#[derive(Debug, Arbitrary)]
pub struct Model {
    tensors: Vec<(Name, bool, Vec<Dimension>)>,
    /// Taken in turn.
    values: Vec<Value>,
}

impl Model {
    /// What it is: the first of tensors of one name, up to [`MOST_VALUES`]. None where a limit of the schema is passed.
    pub fn parameters(&self) -> Option<Parameters> {
        let mut tensors = BTreeMap::new();
        let mut most = MOST_VALUES;
        for (name, float, shape) in &self.tensors {
            let shape: Vec<_> = shape.iter().map(Dimension::size).collect();
            let spec = TensorSpec { name: name.text(), dtype: if *float { Dtype::F32 } else { Dtype::I64 }, shape };
            if let Some(rest) = spec.values().and_then(|values| most.checked_sub(values)) {
                most = rest;
                tensors.entry(spec.name.clone()).or_insert(spec);
            }
        }
        let schema = Arc::new(Schema::new(tensors.into_values().collect()).ok()?);
        let mut values = self.values.iter().map(Value::float).cycle();
        let mut next = || values.next().unwrap_or(0.0);
        let values = schema.tensors().iter().map(|spec| {
            let len = spec.values().unwrap_or(0);
            match spec.dtype {
                Dtype::F32 => Values::F32((0..len).map(|_| next()).collect()),
                Dtype::I64 => Values::I64((0..len).map(|_| next().to_bits() as i32 as i64).collect()),
            }
        });
        let values = values.collect();
        Some(Parameters::new(schema, values))
    }
}

/// The same tensors with other values.
pub fn mapped(parameters: &Parameters, value: impl Fn(f32) -> f32) -> Parameters {
    let map = |values: &Values| match values {
        Values::F32(values) => Values::F32(values.iter().map(|v| value(*v)).collect()),
        Values::I64(values) => Values::I64(values.clone()),
    };
    Parameters::new(Arc::clone(parameters.schema()), parameters.values().iter().map(map).collect())
}

/// The bits of every value: `==` on f32 takes -0.0 for 0.0.
pub fn bits(parameters: &Parameters) -> Vec<Vec<u64>> {
    let of = |values: &Values| match values {
        Values::F32(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Values::I64(values) => values.iter().map(|v| *v as u64).collect(),
    };
    parameters.values().iter().map(of).collect()
}
