//! Numbers and reasons in sentences for people.

/// Characters of a reason in a sentence.
const REASON_CHARS: usize = 200;

/// `1 client`, `2 clients`.
pub(super) fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// Four digits that count, however small or large the number is.
pub(super) fn significant(value: f64) -> String {
    if (1e-3..1e6).contains(&value) {
        let decimals = (3 - value.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.3e}")
    }
}

/// As much of a reason as a sentence has room for; the client's row shows more of it.
pub(super) fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_four_digits_that_count() {
        let cases = [(0.002, "0.002000"), (0.06, "0.06000"), (1.5, "1.500"), (1234.56, "1235"), (2.4e-7, "2.400e-7")];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        assert_eq!(significant(2e31), "2.000e31");
    }
}
