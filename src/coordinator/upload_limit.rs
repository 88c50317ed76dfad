//! Whether updates of a run fit into what `--max-upload-mb` allows.

use crate::wire::{self, Schema};
use app::api::{Encoding, RunConfig};

/// Why the largest update of these tensors, in the run's encoding, does not fit; `None`: it does.
pub(super) fn problem(schema: &Schema, config: &RunConfig, max_upload_mb: u32) -> Option<String> {
    let allowed = u64::from(max_upload_mb) << 20;
    let needed = |encoding| wire::max_update_bytes(schema, encoding, config.topk_fraction);
    let bytes = needed(config.encoding);
    if bytes <= allowed {
        return None;
    }
    let smaller =
        Encoding::ALL.iter().filter(|encoding| needed(**encoding) <= allowed).map(|encoding| encoding.as_str());
    let smaller: Vec<_> = smaller.collect();
    let choose = match smaller.as_slice() {
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

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        // 3,000,000 values: 12 MB as they are, half of that as bf16, a quarter as q8.
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![3_000, 1_000] };
        let schema = Schema::new(vec![spec]).unwrap();
        let config = |encoding| RunConfig { encoding, ..RunConfig::default() };
        assert_eq!(problem(&schema, &config(Encoding::Bf16), 6), None);
        let told = problem(&schema, &config(Encoding::Bf16), 5).unwrap();
        assert!(told.contains("encoding bf16 can have 600"), "{told}");
        assert!(
            told.contains(
                "--max-upload-mb 5 of the coordinator allows 5242880: choose one of the encodings q8, q4, topk"
            ),
            "{told}"
        );
        assert!(told.ends_with("restart the coordinator with --max-upload-mb 6 or more"), "{told}");
        assert!(problem(&schema, &config(Encoding::F32), 6).unwrap().contains("--max-upload-mb 12 or more"));
    }
}
