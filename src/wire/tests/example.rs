//! Keeps the worked example of `docs/wire-format.md` true.

use super::*;

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

#[test]
fn the_specification_shows_a_block_in_each_encoding() {
    let schema = schema(&[("conv.weight", Dtype::F32, &[2, 2])]);
    let of = |values: [f32; 4]| Parameters::new(schema.clone(), vec![Values::F32(values.to_vec())]);
    let base = of([1.0, -2.0, 0.25, 0.0]);
    for encoding in [Encoding::F32, Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4, Encoding::TopK] {
        let recipe = UpdateRecipe { encoding, topk_fraction: 0.01, seed: 0 };
        let base = Base { version: 5, parameters: &base };
        let (body, _) = encode_update(&of([1.0, -2.0, 0.1, 0.0]), base, recipe, &Feedback::default()).unwrap();
        let block: Vec<_> =
            body[plan_of(&body).blocks[0].range.start as usize..].iter().map(|b| format!("{b:02x}")).collect();
        // The specification groups the bytes by what they mean.
        let row = SPECIFICATION.lines().find(|line| line.starts_with(&format!("| `{encoding}` | `"))).unwrap();
        let shown: String = row.split('|').nth(2).unwrap().chars().filter(|c| !" `,;".contains(*c)).collect();
        assert_eq!(shown, block.concat(), "{encoding}");
    }
}
