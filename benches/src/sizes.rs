//! Bytes of an update in every encoding, after real training, beside a yardstick for each.

use crate::mib;
use crate::report::Report;
use anyhow::{Context, Result};
use app::api::{Architecture, Dataset, Encoding, ModelSpec, Stem, TrainConfig};
use clap::Args;
use fedlearn::model::dataset::{self, Split, default_path};
use fedlearn::model::{self, Device, Images, Network};
use fedlearn::wire::{self, Base, Feedback, Parameters, UpdateRecipe, Values, yardstick};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use tabled::Tabled;

/// Of the base, and of the update after it.
const STEPS: usize = 300;
const BATCH_SIZE: u32 = 32;

#[derive(Args)]
pub struct Settings {
    /// What to train on [default: cifar10 where it is found, else fashion-mnist]
    #[arg(long)]
    dataset: Option<Dataset>,
    /// Its folder or archive [default: where `make setup` or Debian puts it]
    #[arg(long = "data", value_name = "PATH")]
    path: Option<PathBuf>,
}

#[derive(Serialize, Tabled)]
struct Row {
    form: &'static str,
    #[tabled(rename = "MiB", format("{:.2}", mib(self.bytes)))]
    bytes: u64,
    #[tabled(rename = "less than JSON, %", format("{:.1}", self.less_than_json * 1e2))]
    less_than_json: f64,
    #[tabled(rename = "yardstick, MiB", format("{}", self.yardstick_bytes.map_or(String::new(), |b| format!("{:.2}", mib(b as u64)))))]
    yardstick_bytes: Option<f64>,
    yardstick: &'static str,
}

pub async fn run(settings: Settings, report: &mut Report) -> Result<()> {
    let (dataset, images) = images(&settings)?;
    let images = Arc::new(images);
    for network in [Architecture::Resnet18, Architecture::Resnet50] {
        let images = images.clone();
        // On a thread of its own, so that signals are handled meanwhile.
        let (caption, rows) = tokio::task::spawn_blocking(move || measure(network, dataset, &images)).await??;
        report.add(network.as_str(), &caption, &rows)?;
    }
    Ok(())
}

fn measure(network: Architecture, dataset: Dataset, images: &Images) -> Result<(String, Vec<Row>)> {
    let (base, update, losses) = trained(network, dataset, images)?;
    let caption = format!(
        "{network}, {} values; {STEPS} steps of batch {BATCH_SIZE} on {dataset} (loss {:.3}), then {STEPS} more (loss {:.3})",
        base.schema().values(),
        losses[0],
        losses[1]
    );
    Ok((caption, rows(&base, &update)?))
}

fn images(settings: &Settings) -> Result<(Dataset, Images)> {
    let found = |dataset| Some((dataset, settings.path.clone().or_else(|| default_path(dataset))?));
    let any = || found(Dataset::Cifar10).or_else(|| found(Dataset::FashionMnist));
    let (dataset, path) =
        settings.dataset.map_or_else(any, found).context("found no dataset; name one with --dataset and --data")?;
    Ok((dataset, dataset::load(dataset, &path, Split::Train)?))
}

/// The base, the update, and the loss at the end of each.
fn trained(
    architecture: Architecture,
    dataset: Dataset,
    images: &Images,
) -> Result<(Parameters, Parameters, [f64; 2])> {
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
        anyhow::Ok((network.parameters()?, loss))
    };
    let ((base, first), (update, second)) = (train(0)?, train(1)?);
    Ok((base, update, [first, second]))
}

fn rows(base: &Parameters, update: &Parameters) -> Result<Vec<Row>> {
    let (values, json_bytes) = (update.schema().values(), json_bytes(update)?);
    let row = |form, bytes: u64, yardstick: &'static str, yardstick_bytes| {
        let less_than_json = 1.0 - bytes as f64 / json_bytes as f64;
        Row { form, bytes, less_than_json, yardstick_bytes, yardstick }
    };
    let mut rows = vec![
        row("JSON", json_bytes, "", None),
        row("f32 as it is", 4 * values, "", None),
        row("bf16 as it is, as pickle has it", 2 * values, "", None),
        row("bf16, zstd level 3: the way of the original platform", yardstick::interleaved_bytes(update)?, "", None),
    ];
    for &encoding in Encoding::ALL {
        let recipe = UpdateRecipe { encoding, topk_fraction: 0.01, seed: 0 };
        let base = Base { version: 0, parameters: base };
        let (body, _) = wire::encode_update(update, base, recipe, &Feedback::default())?;
        let (yardstick, yardstick_bytes) = match encoding {
            Encoding::F32 => ("", None),
            Encoding::Bf16Delta => {
                let bytes = yardstick::zigzag_bytes(update, base.parameters)?;
                ("zigzag, planes, zstd level 3", Some(bytes as f64))
            }
            _ => ("order-0 entropy", Some(yardstick::entropy_bytes(&body)?)),
        };
        rows.push(row(encoding.as_str(), body.len() as u64, yardstick, yardstick_bytes));
    }
    Ok(rows)
}

/// As Python writes a list of floats: each f32 as the f64 that it is.
fn json_bytes(parameters: &Parameters) -> Result<u64> {
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
