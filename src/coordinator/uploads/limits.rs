//! How many bytes an upload may have.

use super::error::UploadError;
use crate::wire::{self, Schema};
use app::api::{Encoding, RunConfig};

/// The most bytes that a body may have.
#[derive(Debug, Clone, Copy)]
pub struct SizeLimit {
    max_upload_mb: u32,
    /// The longest update of the model, if that is less.
    of_model: Option<u64>,
}

impl SizeLimit {
    /// The limit of `--max-upload-mb`.
    pub fn new(max_upload_mb: u32) -> Self {
        Self { max_upload_mb, of_model: None }
    }

    /// The same for updates of a model with this schema.
    pub fn of_model(self, schema: &Schema) -> Self {
        let of_model = wire::max_body_bytes(schema);
        Self { of_model: Some(of_model).filter(|bytes| *bytes < self.bytes()), ..self }
    }

    /// The limit.
    pub fn bytes(self) -> u64 {
        self.of_model.unwrap_or(u64::from(self.max_upload_mb) << 20)
    }

    /// Checks a body of at least that many bytes.
    ///
    /// # Errors
    /// It exceeds the limit.
    pub fn check(self, bytes: u64) -> Result<(), UploadError> {
        match (bytes <= self.bytes(), self.of_model) {
            (true, _) => Ok(()),
            (false, Some(limit)) => Err(UploadError::LargerThanModel { bytes, limit }),
            (false, None) => Err(UploadError::LargerThanSetting { bytes, max_upload_mb: self.max_upload_mb }),
        }
    }
}

/// Why the longest update of a model, in the run's encoding, exceeds `--max-upload-mb`; `None` if it does not.
pub(in crate::coordinator) fn problem(schema: &Schema, config: &RunConfig, max_upload_mb: u32) -> Option<String> {
    let allowed = u64::from(max_upload_mb) << 20;
    let needed = |encoding| wire::max_update_bytes(schema, encoding, config.topk_fraction);
    let bytes = needed(config.encoding);
    if bytes <= allowed {
        return None;
    }
    let fitting = Encoding::ALL.iter().filter(|encoding| needed(**encoding) <= allowed);
    let fitting: Vec<_> = fitting.map(|encoding| encoding.as_str()).collect();
    let choose = match fitting.as_slice() {
        [] => String::new(),
        encodings => format!("choose one of the encodings {}, or ", encodings.join(", ")),
    };
    Some(format!(
        "an update of this model in the encoding {} can have {bytes} bytes, and --max-upload-mb {max_upload_mb} of the \
         coordinator allows {allowed}: {choose}restart the coordinator with --max-upload-mb {} or more",
        config.encoding,
        bytes.div_ceil(1 << 20)
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, TensorSpec};

    fn schema(values: u64) -> Schema {
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![values.div_ceil(100), 100] };
        Schema::new(vec![spec]).unwrap()
    }

    #[test]
    fn a_body_over_the_setting_names_it_and_the_value_that_would_suffice() {
        let limit = SizeLimit::new(5).of_model(&schema(25 << 20));
        assert!(limit.check(5 << 20).is_ok());
        let message = limit.check(14_834_130).unwrap_err().to_string();
        assert!(message.contains("at least 14834130 bytes"), "{message}");
        assert!(message.contains("--max-upload-mb 5 of the coordinator allows 5242880"), "{message}");
        assert!(message.ends_with("with --max-upload-mb 15 or more"), "{message}");
    }

    #[test]
    fn a_body_over_the_longest_update_of_the_model_does_not_blame_the_setting() {
        let limit = SizeLimit::new(1_024).of_model(&schema(100));
        let message = limit.check(limit.bytes() + 1).unwrap_err().to_string();
        assert!(message.contains("no update of this run's model has more than"), "{message}");
        assert!(!message.contains("--max-upload-mb"), "{message}");
    }

    #[test]
    fn a_model_whose_updates_exceed_the_setting_is_reported_with_what_would_fit() {
        // 3,000,000 values: 12 MB in f32, half of that in bf16, a quarter in q8.
        let schema = schema(3_000_000);
        let config = |encoding| RunConfig { encoding, ..RunConfig::default() };
        assert_eq!(problem(&schema, &config(Encoding::Bf16), 6), None);
        let problem_at = |encoding, max_upload_mb| problem(&schema, &config(encoding), max_upload_mb).unwrap();
        let message = problem_at(Encoding::Bf16, 5);
        assert!(message.contains("encoding bf16 can have 600"), "{message}");
        assert!(
            message.contains(
                "--max-upload-mb 5 of the coordinator allows 5242880: choose one of the encodings q8, q4, topk"
            ),
            "{message}"
        );
        assert!(message.ends_with("restart the coordinator with --max-upload-mb 6 or more"), "{message}");
        assert!(problem_at(Encoding::F32, 6).contains("--max-upload-mb 12 or more"));
    }
}
