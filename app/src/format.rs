//! Numbers as people read them. Every function is plain, so that server and browser write the same text.

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three significant digits with a decimal unit: `421 k`, `11.2 M`; whole numbers below 1000.
fn scaled(n: u64, units: [&str; 5]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // 999.5 and above would be written with four digits.
    while value >= 999.5 && unit < units.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", units[unit]).trim_end().to_owned()
}

/// `14.6 MB`: decimal units.
pub fn bytes(n: u64) -> String {
    scaled(n, ["B", "kB", "MB", "GB", "TB"])
}

/// `11.2 M`.
pub fn quantity(n: u64) -> String {
    scaled(n, ["", "k", "M", "G", "T"])
}

/// `86.2%` of 0.8617.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Three decimals below 10, fewer above: `0.391`, `23.0`, `1.2e7`.
pub fn loss(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "not finite".to_owned(),
        v if v < 10.0 => format!("{value:.3}"),
        v if v < 1e5 => format!("{value:.1}"),
        _ => format!("{value:.1e}"),
    }
}

/// `850 ms`, `42 s`, `3 min 05 s`, `10 min`, `1 h 02 min`, `4 d 03 h`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small:02} {small_unit}"),
    };
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s / 60 % 60, "min"),
        _ => two(s / 86_400, "d", s / 3_600 % 24, "h"),
    }
}

/// `now`, `12 s ago`, `3 min ago`; the future counts as now, since clocks differ.
pub fn ago(then_ms: u64, now_ms: u64) -> String {
    let s = now_ms.saturating_sub(then_ms) / 1000;
    match s {
        0..5 => "now".to_owned(),
        5..60 => format!("{s} s ago"),
        60..3_600 => format!("{} min ago", s / 60),
        3_600..86_400 => format!("{} h ago", s / 3_600),
        _ => format!("{} d ago", s / 86_400),
    }
}

/// `1 round`, `3 rounds`.
pub fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        assert_eq!(
            [0, 999, 1_000, 14_580_000, 999_600, 2_000_000_000].map(bytes),
            ["0 B", "999 B", "1.00 kB", "14.6 MB", "1.00 MB", "2.00 GB"]
        );
        assert_eq!(bytes(u64::MAX), "18446744 TB");
    }

    #[test]
    fn a_quantity_below_a_thousand_has_no_unit() {
        assert_eq!([7, 421_642, 11_173_962].map(quantity), ["7", "422 k", "11.2 M"]);
    }

    #[test]
    fn a_share_is_a_percentage_with_one_decimal() {
        assert_eq!([0.0, 0.8617, 1.0].map(percent), ["0.0%", "86.2%", "100.0%"]);
    }

    #[test]
    fn a_loss_keeps_what_matters_of_it() {
        assert_eq!([0.3914, 23.04, 1.2e7, f64::NAN].map(loss), ["0.391", "23.0", "1.2e7", "not finite"]);
    }

    #[test]
    fn a_duration_names_its_two_largest_units_unless_the_second_is_zero() {
        assert_eq!(
            [850, 42_000, 185_000, 600_000, 3_720_000, 356_400_000].map(duration),
            ["850 ms", "42 s", "3 min 05 s", "10 min", "1 h 02 min", "4 d 03 h"]
        );
    }

    #[test]
    fn the_past_is_told_in_its_largest_unit() {
        let now = 1_000_000_000;
        assert_eq!(
            [1_000, 12_000, 185_000, 7_200_000, 200_000_000].map(|ms| ago(now - ms, now)),
            ["now", "12 s ago", "3 min ago", "2 h ago", "2 d ago"]
        );
    }

    #[test]
    fn the_future_counts_as_now() {
        assert_eq!(ago(2_000, 1_000), "now");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| plural(n, "round")), ["0 rounds", "1 round", "2 rounds"]);
    }
}
