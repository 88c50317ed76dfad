//! Parameters in memory: named tensors in a fixed order, described by a schema.

use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The most tensors a schema may have: ResNet-152 has under 1,000.
pub const MAX_TENSORS: usize = 65_536;
/// The longest tensor name, in bytes.
pub const MAX_NAME_BYTES: usize = 1_024;
/// The most dimensions a tensor may have.
pub const MAX_DIMENSIONS: usize = 8;
/// The most values a schema may have: 4 Gi, 16 GiB as f32.
pub const MAX_VALUES: u64 = 1 << 32;

/// How values are held in memory. What arrives as F16 or BF16 is held as `F32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floating point: what is trained and averaged.
    F32,
    /// 64-bit integers: counters, such as PyTorch's `num_batches_tracked`.
    I64,
}

/// Name, dtype and shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// PyTorch's name for it: `layer1.0.conv1.weight`.
    pub name: String,
    /// What its values are.
    pub dtype: Dtype,
    /// Its dimensions; empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// How many values it has: the product of its dimensions, 1 for a scalar. None above `u64::MAX`.
    pub fn values(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
    }
}

/// Why a list of tensors is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Over [`MAX_TENSORS`].
    #[error("{0} tensors, at most {MAX_TENSORS} are allowed")]
    TooManyTensors(usize),
    /// Over [`MAX_NAME_BYTES`], or empty.
    #[error("a tensor's name has {0} bytes, allowed are 1 to {MAX_NAME_BYTES}")]
    NameLength(usize),
    /// Over [`MAX_DIMENSIONS`].
    #[error("tensor '{name}' has {dimensions} dimensions, at most {MAX_DIMENSIONS} are allowed")]
    TooManyDimensions {
        /// Which tensor.
        name: String,
        /// How many it has.
        dimensions: usize,
    },
    /// Two tensors of one name.
    #[error("tensor '{0}' appears twice")]
    Duplicate(String),
    /// Over [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} values, counted up to tensor '{0}'")]
    TooManyValues(String),
}

/// An ordered list of distinct tensors: sorted by name, so that two parties that agree on the tensors agree on the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    tensors: Vec<TensorSpec>,
    values: u64,
    digest: [u8; 32],
}

impl Schema {
    /// Sorts and checks the tensors.
    ///
    /// # Errors
    /// A limit is passed or a name appears twice.
    pub fn new(mut tensors: Vec<TensorSpec>) -> Result<Self, SchemaError> {
        if tensors.len() > MAX_TENSORS {
            return Err(SchemaError::TooManyTensors(tensors.len()));
        }
        // Not the stable sort, which would take as much memory again; no two may be equal anyway.
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut total = 0u64;
        let mut previous: Option<&str> = None;
        for tensor in &tensors {
            if !(1..=MAX_NAME_BYTES).contains(&tensor.name.len()) {
                return Err(SchemaError::NameLength(tensor.name.len()));
            }
            if tensor.shape.len() > MAX_DIMENSIONS {
                return Err(SchemaError::TooManyDimensions {
                    name: tensor.name.clone(),
                    dimensions: tensor.shape.len(),
                });
            }
            if previous == Some(&tensor.name) {
                return Err(SchemaError::Duplicate(tensor.name.clone()));
            }
            previous = Some(&tensor.name);
            total = tensor
                .values()
                .and_then(|n| total.checked_add(n))
                .filter(|&n| n <= MAX_VALUES)
                .ok_or_else(|| SchemaError::TooManyValues(tensor.name.clone()))?;
        }
        let digest = digest(&tensors);
        Ok(Self { tensors, values: total, digest })
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// How many values all tensors have together.
    pub fn values(&self) -> u64 {
        self.values
    }

    /// SHA-256 over, for each tensor in order: name length (u32), name, dtype (u8: 0 F32, 1 I64), dimensions (u32),
    /// each dimension (u64); all little-endian.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

fn digest(tensors: &[TensorSpec]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for tensor in tensors {
        // Both lengths are below 2^16 by the checks above.
        hash.update((tensor.name.len() as u32).to_le_bytes());
        hash.update(tensor.name.as_bytes());
        hash.update([tensor.dtype as u8]);
        hash.update((tensor.shape.len() as u32).to_le_bytes());
        for dim in &tensor.shape {
            hash.update(dim.to_le_bytes());
        }
    }
    hash.finalize().into()
}

/// The values of one tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// See [`Dtype::F32`].
    F32(Vec<f32>),
    /// See [`Dtype::I64`].
    I64(Vec<i64>),
}

impl Values {
    /// As many zeros as the tensor has values.
    pub(super) fn zeros(spec: &TensorSpec) -> Self {
        // Of a schema's tensor: at most `MAX_VALUES`.
        let len = spec.values().unwrap_or(0) as usize;
        match spec.dtype {
            Dtype::F32 => Self::F32(vec![0.0; len]),
            Dtype::I64 => Self::I64(vec![0; len]),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they are.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::I64(_) => Dtype::I64,
        }
    }
}

/// A model's parameters and buffers: the values to a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    schema: Arc<Schema>,
    values: Vec<Values>,
}

impl Parameters {
    /// Joins a schema with the values of its tensors, in its order.
    ///
    /// # Panics
    /// If they do not fit: this is for those who made the values from the schema. Bytes from outside are checked by
    /// the decoders before they come here.
    pub fn new(schema: Arc<Schema>, values: Vec<Values>) -> Self {
        assert_eq!(schema.tensors.len(), values.len(), "as many value lists as tensors");
        for (spec, v) in schema.tensors.iter().zip(&values) {
            assert_eq!(spec.dtype, v.dtype(), "dtype of '{}'", spec.name);
            assert_eq!(spec.values(), Some(v.len() as u64), "number of values of '{}'", spec.name);
        }
        Self { schema, values }
    }

    /// What they are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The values of each tensor, in the schema's order.
    pub fn values(&self) -> &[Values] {
        &self.values
    }

    /// Each tensor with its values, in the schema's order.
    pub fn iter(&self) -> impl Iterator<Item = (&TensorSpec, &Values)> {
        self.schema.tensors.iter().zip(&self.values)
    }
}

/// The Euclidean norm of the difference of all F32 values together, summed in f64. Integers do not count: they are no
/// parameters.
///
/// # Panics
/// If the two are not of one schema.
pub fn l2_distance(a: &Parameters, b: &Parameters) -> f64 {
    // Sixteen sums side by side, because the compiler may not reorder one: so it can vectorise, and the result is the
    // same on every machine.
    const LANES: usize = 16;
    assert_eq!(a.schema.digest, b.schema.digest, "parameters of one model");
    let mut sums = [0.0; LANES];
    let mut add = |a: &[f32], b: &[f32]| {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            let difference = f64::from(*a) - f64::from(*b);
            *sum += difference * difference;
        }
    };
    for pair in a.values.iter().zip(&b.values) {
        if let (Values::F32(a), Values::F32(b)) = pair {
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            a.iter().zip(b).for_each(|(a, b)| add(a, b));
            add(a_rest, b_rest);
        }
    }
    sums.iter().sum::<f64>().sqrt()
}
