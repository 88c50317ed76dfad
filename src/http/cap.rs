//! How large a body may be, and by which bound.

use super::error::{ApiError, ApiResult};
use app::api::ErrorCode;

/// The most bytes that a body may have.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    max_upload_mb: u32,
    /// The most that an update of the model has, where that is known and less.
    of_model: Option<u64>,
}

impl Cap {
    /// What `--max-upload-mb` allows, whatever the model.
    pub fn new(max_upload_mb: u32) -> Self {
        Self { max_upload_mb, of_model: None }
    }

    /// The same for an update of a model that has at most that many bytes.
    pub fn of_model(self, bytes: u64) -> Self {
        Self { of_model: Some(bytes).filter(|bytes| *bytes < self.bytes()), ..self }
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.of_model.unwrap_or(u64::from(self.max_upload_mb) << 20)
    }

    /// Whether a body of at least that many bytes is within the cap.
    ///
    /// # Errors
    /// 413, with the bound by its name.
    pub fn check(self, bytes: u64) -> ApiResult<()> {
        let cap = self.bytes();
        if bytes <= cap {
            return Ok(());
        }
        let message = match self.of_model {
            Some(_) => format!(
                "the body has at least {bytes} bytes, and no update of this run's model has more than {cap}: send the \
                 tensors that GET .../models/latest has, and no others"
            ),
            None => format!(
                "the body has at least {bytes} bytes, and --max-upload-mb {} of the coordinator allows {cap}: send it in \
                 a smaller encoding, or restart the coordinator with --max-upload-mb {} or more",
                self.max_upload_mb,
                bytes.div_ceil(1 << 20)
            ),
        };
        Err(ApiError::new(ErrorCode::TooLarge, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cap: Cap, bytes: u64) -> String {
        cap.check(bytes).expect_err("it is over the cap").message().to_owned()
    }

    #[test]
    fn a_body_over_the_setting_names_it_and_the_value_that_would_do() {
        let cap = Cap::new(5).of_model(100 << 20);
        assert!(cap.check(5 << 20).is_ok());
        let message = refusal(cap, 14_834_130);
        assert!(message.contains("at least 14834130 bytes"), "{message}");
        assert!(message.contains("--max-upload-mb 5 of the coordinator allows 5242880"), "{message}");
        assert!(message.ends_with("with --max-upload-mb 15 or more"), "{message}");
    }

    #[test]
    fn a_body_over_what_the_model_needs_does_not_blame_the_setting() {
        let message = refusal(Cap::new(1_024).of_model(1_000), 1_001);
        assert!(message.contains("no update of this run's model has more than 1000"), "{message}");
        assert!(!message.contains("--max-upload-mb"), "{message}");
    }
}
