//! What is trained: the built-in architectures and the datasets known by name.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An enum that is one word in JSON, in the database, on the command line and on the page. A variant after `;` stands for every
/// other word that a newer peer sends; it is never sent.
macro_rules! word {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)?
            $(; $(#[$odoc:meta])* $other:ident = $other_text:literal)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] #[cfg_attr(feature = "ssr", schema(rename = $text))] $variant,)+
            $($(#[$odoc])* #[serde(other, skip_serializing)] $other)?
        }

        impl $name {
            /// Every value that is sent, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The words of [`Self::ALL`].
            pub const WORDS: &'static [&'static str] = &[$($text),+];

            /// The word used in JSON, database, command line and page alike.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ $(Self::$other => $other_text)? }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    format!("'{text}' is none of {}", known.join(", "))
                })
            }
        }
    };
}
pub(crate) use word;

word!(
    /// A built-in network.
    Architecture {
        /// Two convolutions and two linear layers, for 28x28 or 32x32 images. Has no use for a stem.
        Cnn = "cnn",
        /// ResNet-18 (He et al. 2015, arXiv:1512.03385), basic blocks.
        Resnet18 = "resnet18",
        /// ResNet-34, basic blocks.
        Resnet34 = "resnet34",
        /// ResNet-50, bottleneck blocks with the stride on the 3x3 convolution, as torchvision has it.
        Resnet50 = "resnet50",
    }
);

word!(
    /// How a ResNet begins.
    Stem {
        /// 7x7 convolution of stride 2, then max-pooling: for large images, and what the original platform used.
        Imagenet = "imagenet",
        /// 3x3 convolution of stride 1, no pooling: for 32x32 images.
        Cifar = "cifar",
    }
);

word!(
    /// A dataset that coordinator and agent can read.
    Dataset {
        /// 28x28 grey, 10 classes of clothing; IDX files.
        FashionMnist = "fashion-mnist",
        /// 28x28 grey, 10 digits; IDX files.
        Mnist = "mnist",
        /// 32x32 colour, 10 classes; binary layout.
        Cifar10 = "cifar10",
        /// 32x32 colour, 100 classes (the fine labels); binary layout.
        Cifar100 = "cifar100",
    }
);

impl Dataset {
    /// Channels, height, width of each image.
    pub const fn image_shape(self) -> (u32, u32, u32) {
        match self {
            Self::FashionMnist | Self::Mnist => (1, 28, 28),
            Self::Cifar10 | Self::Cifar100 => (3, 32, 32),
        }
    }

    /// How many classes its labels name: 0 to classes - 1.
    pub const fn classes(self) -> u32 {
        match self {
            Self::Cifar100 => 100,
            _ => 10,
        }
    }
}

/// Which network, of which size, from which random beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The network.
    pub architecture: Architecture,
    /// How a ResNet begins; `cnn` ignores it.
    #[serde(default = "ModelSpec::default_stem")]
    pub stem: Stem,
    /// Channels of the input images.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 4_096))]
    pub channels: u32,
    /// Classes told apart.
    #[cfg_attr(feature = "ssr", schema(minimum = 2, maximum = 100_000))]
    pub classes: u32,
    /// Seed of the initial parameters.
    #[serde(default)]
    pub seed: u64,
}

impl ModelSpec {
    /// The most classes or channels that a spec may ask for: 100 times ImageNet, and 4096 channels.
    pub const MAX_CLASSES: u32 = 100_000;
    /// See [`Self::MAX_CLASSES`].
    pub const MAX_CHANNELS: u32 = 4_096;

    /// The network for a dataset, with the stem made for small images.
    pub fn for_dataset(architecture: Architecture, dataset: Dataset) -> Self {
        let (channels, _, _) = dataset.image_shape();
        Self { architecture, stem: Stem::Cifar, channels, classes: dataset.classes(), seed: 0 }
    }

    fn default_stem() -> Stem {
        Stem::Cifar
    }

    /// What is out of bounds, each naming the field and the bound; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(2..=Self::MAX_CLASSES).contains(&self.classes) {
            problems.push(format!("classes must be between 2 and {}, got {}", Self::MAX_CLASSES, self.classes));
        }
        if !(1..=Self::MAX_CHANNELS).contains(&self.channels) {
            problems.push(format!("channels must be between 1 and {}, got {}", Self::MAX_CHANNELS, self.channels));
        }
        problems
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.architecture {
            Architecture::Cnn => write!(f, "cnn"),
            resnet => write!(f, "{resnet} ({} stem)", self.stem),
        }
    }
}
