//! Keeps the worked example of `docs/wire-format.md` true.

use super::*;
use app::api::Encoding;

const SPECIFICATION: &str = include_str!("../../../docs/wire-format.md");

/// Sixteen bytes a line, after their offset.
fn hexdump(bytes: &[u8]) -> String {
    let line = |(i, line): (usize, &[u8])| {
        let bytes: Vec<_> = line.iter().map(|b| format!("{b:02x}")).collect();
        format!("{:04x}  {}\n", 16 * i, bytes.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

#[test]
fn the_specification_shows_what_is_written() {
    let schema = schema(&[("conv.weight", Dtype::F32, &[2, 2]), ("steps", Dtype::I64, &[])]);
    let values = vec![Values::F32(vec![1.0, -2.0, 0.1, 0.0]), Values::I64(vec![300])];
    let body = encode(&Parameters::new(schema, values), Encoding::Bf16, Some(5)).unwrap();

    let dump = hexdump(&body);
    assert!(SPECIFICATION.contains(&dump), "docs/wire-format.md should show\n{dump}");
}
