//! Bytes of an update in every encoding, after real training, beside what they are to be measured by.

use super::{BenchError, mib};
use crate::commands::say;
use crate::config::BenchSettings;
use crate::model::dataset::{self, Split, default_path};
use crate::model::{self, Device, Images, Network};
use crate::wire::{self, Base, Feedback, Parameters, UpdateRecipe, Values, yardstick};
use app::api::{Architecture, Dataset, Encoding, ModelSpec, Stem, TrainConfig};
use std::io::{self, Write};
use std::ops::ControlFlow;

/// Of the base, and of the update after it.
const STEPS: usize = 300;
const BATCH_SIZE: u32 = 32;

/// A line of the table.
struct Row {
    what: String,
    bytes: u64,
    /// What it is measured by: its name, and bytes.
    beside: Option<(&'static str, f64)>,
}

pub(super) async fn run(settings: &BenchSettings) -> Result<(), BenchError> {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || table(&settings)).await?
}

fn table(settings: &BenchSettings) -> Result<(), BenchError> {
    let (dataset, images) = images(settings)?;
    for network in [Architecture::Resnet18, Architecture::Resnet50] {
        let (base, update, losses) = trained(network, dataset, &images)?;
        let values = base.schema().values();
        say(&format!(
            "{network}, {values} values; {STEPS} steps of batch {BATCH_SIZE} on {dataset} (loss {:.3}), then {STEPS} more \
             (loss {:.3})\n\n| | MiB | less than JSON | beside it, MiB |\n|---|---|---|---|",
            losses[0], losses[1]
        ));
        let rows = rows(&base, &update)?;
        let json = rows.first().map_or(f64::NAN, |row| row.bytes as f64);
        for Row { what, bytes, beside } in rows {
            let less = (1.0 - bytes as f64 / json) * 1e2;
            let beside = beside.map_or(String::new(), |(what, bytes)| format!("{:.2} ({what})", mib(bytes as u64)));
            say(&format!("| {what} | {:.2} | {less:.1}% | {beside} |", mib(bytes)));
        }
        say("");
    }
    Ok(())
}

fn images(settings: &BenchSettings) -> Result<(Dataset, Images), BenchError> {
    let found = |dataset| Some((dataset, settings.path.clone().or_else(|| default_path(dataset))?));
    let named = settings.dataset.map(found);
    let else_found = || found(Dataset::Cifar10).or_else(|| found(Dataset::FashionMnist));
    let (dataset, path) = named.unwrap_or_else(else_found).ok_or(BenchError::NoDataset)?;
    Ok((dataset, dataset::load(dataset, &path, Split::Train)?))
}

/// The base, the update, and the loss at the end of each.
fn trained(
    architecture: Architecture,
    dataset: Dataset,
    images: &Images,
) -> Result<(Parameters, Parameters, [f64; 2]), BenchError> {
    let (channels, classes) = (dataset.image_shape().0, dataset.classes());
    let spec = ModelSpec { architecture, stem: Stem::Imagenet, channels, classes, seed: 0 };
    let mut network = Network::new(&spec, Device::Cpu)?;
    let config =
        TrainConfig { local_epochs: 1, batch_size: BATCH_SIZE, learning_rate: 0.005, ..TrainConfig::default() };
    let count = STEPS * BATCH_SIZE as usize;
    let mut train = |part: usize| {
        let part: Vec<_> = (part * count..(part + 1) * count).map(|i| i % images.len()).collect();
        let mut loss = f64::NAN;
        let mut look = |progress: app::api::Progress| {
            loss = progress.loss;
            ControlFlow::Continue(())
        };
        model::train(&mut network, &images.select(&part), &config, 0, &mut look)?;
        Ok::<_, BenchError>((network.parameters()?, loss))
    };
    let ((base, first), (update, second)) = (train(0)?, train(1)?);
    Ok((base, update, [first, second]))
}

fn rows(base: &Parameters, update: &Parameters) -> Result<Vec<Row>, BenchError> {
    let values = update.schema().values();
    let plain = |what: &str, bytes| Row { what: what.to_owned(), bytes, beside: None };
    let mut rows = vec![
        plain("JSON", json_bytes(update)?),
        plain("f32 as it is", 4 * values),
        plain("bf16 as it is, as pickle has it", 2 * values),
        plain("bf16, zstd level 3: the original's way", yardstick::interleaved_bytes(update)?),
    ];
    for encoding in Encoding::ALL {
        let recipe = UpdateRecipe { encoding: *encoding, topk_fraction: 0.01, seed: 0 };
        let base = Base { version: 0, parameters: base };
        let (body, _) = wire::encode_update(update, base, recipe, &Feedback::default())?;
        let entropy = || yardstick::entropy_bytes(&body).map_err(wire::ReadError::from);
        let beside = match encoding {
            Encoding::F32 => None,
            Encoding::Bf16Delta => {
                let bytes = yardstick::zigzag_bytes(update, base.parameters)?;
                Some(("zigzag, planes, zstd level 3", bytes as f64))
            }
            _ => Some(("order-0 entropy", entropy()?)),
        };
        rows.push(Row { what: format!("`{encoding}`"), bytes: body.len() as u64, beside });
    }
    Ok(rows)
}

/// As Python writes a list of floats: each f32 as the f64 that it is.
fn json_bytes(parameters: &Parameters) -> Result<u64, BenchError> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(2);
    for (spec, values) in parameters.iter() {
        let floats: Vec<f64> = match values {
            Values::F32(values) => values.iter().copied().map(f64::from).collect(),
            Values::I64(values) => values.iter().map(|value| *value as f64).collect(),
        };
        count.0 += spec.name.len() as u64 + 5; // quotes, colon, comma
        serde_json::to_writer(&mut count, &floats).map_err(io::Error::from)?;
        count.0 += values.len() as u64; // Python puts a space after each comma
    }
    Ok(count.0)
}
