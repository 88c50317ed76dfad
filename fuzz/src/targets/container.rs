//! Whole containers: of any bytes; written by us and changed on the way or by a forger; and made by hand, with blocks of any
//! size and planes of any content.

use super::changes::Change;
use super::frame::Frame;
use super::header::{Fields, Written as Header};
use super::model::{Model, bits, mapped};
use super::{MOST_VALUES, check};
use app::api::Encoding;
use arbitrary::{Arbitrary, Unstructured};
use fedlearn::wire::{self, Base, BodyFormat, DecodeError, Dtype, Feedback, Parameters, Plan, UpdateRecipe, Values};
use std::sync::Arc;

/// Input of the target.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// As a body.
    Raw(&'a [u8]),
    /// What the encoder writes, with changes.
    Written(Update, Vec<Forgery>, Option<OnTheWay>),
    /// Header and blocks by hand.
    Made(Fields, Vec<Plane>, &'a [u8]),
}

/// An update and its base.
#[derive(Debug, Arbitrary)]
struct Update {
    model: Model,
    /// What the base's values are those of the model times, by eight, plus.
    base: (i8, i8),
    encoding: u8,
    seed: u8,
    topk_fraction: u8,
}

/// Changes of what is under a checksum, which fits again afterwards.
#[derive(Debug, Arbitrary)]
enum Forgery {
    Header(Change),
    Block(u8, Change),
}

/// Changes of the whole body.
#[derive(Debug, Arbitrary)]
enum OnTheWay {
    /// Up to 32 bits in a row.
    Burst {
        at: u16,
        bits: u32,
    },
    Any(Change),
}

/// What a plane of a block made by hand is like.
#[derive(Debug, Arbitrary)]
struct Plane {
    zstd: bool,
    /// Bytes too many, or too few.
    more: i8,
    /// The same byte all over, rather than the next ones of the input.
    fill: Option<u8>,
}

const VERSION: u64 = 3;

/// Reads a container. Returns whether it was accepted.
pub fn container(data: &[u8]) -> bool {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return false };
    match input {
        Input::Raw(body) => read_any(body).is_ok(),
        Input::Written(update, forgeries, on_the_way) => written(&update, &forgeries, on_the_way.as_ref()),
        Input::Made(fields, planes, bytes) => made(&fields, &planes, bytes),
    }
}

fn written(update: &Update, forgeries: &[Forgery], on_the_way: Option<&OnTheWay>) -> bool {
    let Some(parameters) = update.model.parameters() else { return false };
    let base = mapped(&parameters, |value| {
        let other = value * f32::from(update.base.0) / 8.0 + f32::from(update.base.1);
        if other.is_finite() { other } else { 1.0 }
    });
    let base = Base { version: VERSION, parameters: &base };
    let encoding = Encoding::ALL[usize::from(update.encoding) % Encoding::ALL.len()];
    let topk_fraction = (f64::from(update.topk_fraction) + 1.0) / 256.0;
    let recipe = UpdateRecipe { encoding, topk_fraction, seed: update.seed.into() };
    let Ok((sent, _)) = wire::encode_update(&parameters, base, recipe, &Feedback::default()) else { return false };
    let blocks = Plan::of(BodyFormat::Container, &sent).expect("what is written can be read").block_count();
    let mut frame = Frame::of(&sent, blocks);
    assert_eq!(frame.body(), sent, "the tests build bodies as the encoder does");
    for forgery in forgeries {
        match forgery {
            Forgery::Header(change) => change.on(&mut frame.header),
            Forgery::Block(which, change) => {
                if let Some(which) = usize::from(*which).checked_rem(blocks) {
                    change.on(&mut frame.blocks[which]);
                }
            }
        }
    }
    let forged = frame.body();
    let mut body = forged.clone();
    let mut burst = false;
    match on_the_way {
        Some(OnTheWay::Burst { at, bits }) => {
            let at = usize::from(*at) % body.len();
            body[at..].iter_mut().zip(bits.to_le_bytes()).for_each(|(byte, bits)| *byte ^= bits);
            burst = body != forged;
        }
        Some(OnTheWay::Any(change)) => change.on(&mut body),
        None => {}
    }
    let read = read(&body, &parameters, base);
    if body == sent {
        arrived(&parameters, base.parameters, encoding, read.as_ref());
    }
    // Within one block, or the head, for certain; across the border of two, each part is a burst of its own.
    assert!(!burst || read.is_err(), "a burst of up to 32 bits is not found");
    read.is_ok()
}

/// What was sent is what arrives, but for what the encoding loses.
fn arrived(sent: &Parameters, base: &Parameters, encoding: Encoding, read: Result<&Parameters, &DecodeError>) {
    let read = read.expect("what is written can be read");
    if encoding == Encoding::F32 {
        assert_eq!(bits(read), bits(sent));
    }
    for (((spec, got), sent), base) in read.iter().zip(sent.values()).zip(base.values()) {
        let is_lossy = matches!(encoding, Encoding::Q8 | Encoding::Q4 | Encoding::TopK) && spec.shape.len() >= 2;
        match (got, sent, base) {
            (Values::F32(got), Values::F32(sent), Values::F32(base)) if encoding != Encoding::F32 && !is_lossy => {
                let each = got.iter().zip(sent).zip(base);
                assert!(each.clone().all(|((got, sent), base)| is_rounded(*got, *sent, *base)), "'{}'", spec.name);
            }
            (Values::I64(got), Values::I64(sent), _) => assert_eq!(got, sent, "'{}' is told exactly", spec.name),
            _ => {}
        }
    }
}

/// Whether a value may have come of `sent`, which was trained from `base`: the base as bf16 has it where nothing changed, else
/// what changed to within a step.
fn is_rounded(got: f32, sent: f32, base: f32) -> bool {
    let received = half::bf16::from_f32(base).to_f32().clamp(-wire::LARGEST_BF16, wire::LARGEST_BF16);
    if sent == base {
        return got.to_bits() == received.to_bits();
    }
    let [got, sent, base, received] = [got, sent, base, received].map(f64::from);
    (got - received - (sent - base)).abs() <= sent.abs().max(base.abs()) / 64.0 + 1e-38
}

fn made(fields: &Fields, planes: &[Plane], bytes: &[u8]) -> bool {
    let Header { bytes: header, blocks, tensors } = fields.write();
    if blocks > 256 {
        return false;
    }
    let mut frame = Frame { header, blocks: vec![Vec::new(); blocks as usize] };
    // Which values are in which block stands in the header alone.
    let empty = frame.body();
    let head = Plan::head_bytes(BodyFormat::Container, &empty).expect("a sound frame").expect("all of it");
    let Ok(plan) = Plan::read(BodyFormat::Container, &empty[..head]) else { return false };
    if plan.expect_at_most(MOST_VALUES).is_err() {
        return false;
    }
    let mut content = Content { planes: planes.iter().cycle(), bytes: bytes.iter().cycle(), sound: true };
    for (number, block) in frame.blocks.iter_mut().enumerate() {
        let pieces: Vec<_> = plan.pieces(number).map(|(_, values)| values.len()).collect();
        let encoding = plan.pieces(number).next().map_or(0, |(tensor, _)| tensors[tensor].2);
        *block = content.block(encoding, &pieces);
    }
    let base = model_of(&plan);
    let version = plan.base_version().unwrap_or(VERSION);
    let read = read(&frame.body(), &base, Base { version, parameters: &base });
    if content.sound
        && let Err(refusal) = &read
    {
        let of_content =
            matches!(refusal, DecodeError::NotFinite { .. } | DecodeError::Padding { .. } | DecodeError::NoBase);
        assert!(of_content, "blocks of the right sizes are refused: {refusal}");
    }
    read.is_ok()
}

/// A model of the body's tensors, to be its base.
fn model_of(plan: &Plan) -> Parameters {
    let values = plan.schema().tensors().iter().map(|spec| {
        let len = spec.values().unwrap_or(0) as usize;
        match spec.dtype {
            Dtype::F32 => Values::F32((0..len).map(|i| i as f32 - 3.0).collect()),
            Dtype::I64 => Values::I64(vec![0; len]),
        }
    });
    Parameters::new(Arc::clone(plan.schema()), values.collect())
}

/// What blocks are filled with.
struct Content<P, B> {
    planes: P,
    bytes: B,
    /// Whether all planes so far were as long as they should be.
    sound: bool,
}

impl<'a, P: Iterator<Item = &'a Plane>, B: Iterator<Item = &'a u8>> Content<P, B> {
    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bytes.next().copied().unwrap_or(0)).collect()
    }

    /// The next plane.
    fn plane(&mut self, len: usize) -> Vec<u8> {
        let plane = self.planes.next().unwrap_or(&Plane { zstd: false, more: 0, fill: None });
        let wanted = len.saturating_add_signed(plane.more.into());
        self.sound &= wanted == len;
        let content = plane.fill.map_or_else(|| self.take(wanted), |byte| vec![byte; wanted]);
        coded(plane.zstd, &content)
    }

    /// A block of pieces of so many values.
    fn block(&mut self, encoding: u8, pieces: &[usize]) -> Vec<u8> {
        let values: usize = pieces.iter().sum();
        let groups: usize = pieces.iter().map(|len| len.div_ceil(1024)).sum();
        match encoding {
            0 => self.take(4 * values),
            1 | 3 => [self.plane(values), self.plane(values)].concat(),
            2 => self.plane(8 * values),
            4 => [self.take(4 * groups), self.plane(values)].concat(),
            5 => [self.take(4 * groups), self.plane(values.div_ceil(2))].concat(),
            _ => self.sparse(values),
        }
    }

    /// Gaps as they come, up to the end of the block.
    fn sparse(&mut self, values: usize) -> Vec<u8> {
        let (mut gaps, mut at) = (Vec::new(), 0);
        for byte in self.take(values.min(64)) {
            at += usize::from(byte) + usize::from(byte < 255);
            if at > values {
                break;
            }
            gaps.push(byte);
        }
        while gaps.last() == Some(&255) {
            gaps.pop();
        }
        let count = gaps.iter().filter(|byte| **byte < 255).count();
        let zstd = self.planes.next().is_some_and(|plane| plane.zstd);
        let mut block = self.take(4);
        block.extend((count as u32).to_le_bytes());
        block.extend((gaps.len() as u32).to_le_bytes());
        block.extend(coded(zstd, &gaps));
        block.extend(self.plane(count));
        block
    }
}

/// Method, length and bytes of a plane.
fn coded(zstd: bool, content: &[u8]) -> Vec<u8> {
    let bytes = if zstd { zstd::bulk::compress(content, 1).expect("enough memory") } else { content.to_vec() };
    [&[u8::from(zstd)][..], &(bytes.len() as u32).to_le_bytes(), &bytes].concat()
}

/// Reads a body as one of this model's, and as one of whatever it is.
fn read(body: &[u8], model: &Parameters, base: Base<'_>) -> Result<Parameters, DecodeError> {
    let any = read_any(body);
    let read = wire::decode_against(body, model.schema(), Some(base))?;
    assert_eq!(read.schema(), model.schema());
    check::can_be_sent_on(&read);
    check::blocks_stand_for_themselves(BodyFormat::Container, body, Some(base), &read);
    if let Ok(any) = any {
        assert_eq!(bits(&any), bits(&read), "with and without a base");
    }
    Ok(read)
}

fn read_any(body: &[u8]) -> Result<Parameters, DecodeError> {
    let read = wire::decode_any(body, MOST_VALUES)?;
    check::can_be_sent_on(&read);
    check::blocks_stand_for_themselves(BodyFormat::Container, body, None, &read);
    assert_eq!(wire::decode(body, read.schema()).as_ref().map(bits), Ok(bits(&read)));
    Ok(read)
}
