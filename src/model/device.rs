//! Which device computes.

use super::ModelError;
use std::str::FromStr;
use tch::{Cuda, Device};

/// Where torch is to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).filter(|&n| n < 256);
                number.map(Self::Cuda).ok_or_else(|| format!("'{text}' is none of auto, cpu, cuda, cuda:0 to cuda:255"))
            }
        }
    }
}

impl DeviceChoice {
    /// The device, on this machine.
    ///
    /// # Errors
    /// That GPU is not there.
    pub fn find(self) -> Result<Device, ModelError> {
        let cuda_devices = if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 };
        self.find_among(cuda_devices)
    }

    fn find_among(self, cuda_devices: usize) -> Result<Device, ModelError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if cuda_devices == 0 => Ok(Device::Cpu),
            Self::Auto => Ok(Device::Cuda(0)),
            Self::Cuda(index) if index < cuda_devices => Ok(Device::Cuda(index)),
            Self::Cuda(index) => Err(ModelError::NoSuchDevice { index, cuda_devices }),
        }
    }
}

/// How many threads one operation on the CPU may use, in this process.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// The name by which [`DeviceChoice`] finds this device again: `cpu`, `cuda:0`.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Cpu => "cpu".to_owned(),
        // `find` returns no other.
        other => format!("{other:?}").to_lowercase(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_the_first_cuda_device_and_else_the_cpu() {
        assert_eq!(DeviceChoice::Auto.find_among(2).unwrap(), Device::Cuda(0));
        assert_eq!(DeviceChoice::Auto.find_among(0).unwrap(), Device::Cpu);
    }

    #[test]
    fn a_device_is_found_again_by_its_description() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            let choice: DeviceChoice = describe(device).parse().unwrap();
            assert_eq!(choice.find_among(4).unwrap(), device);
        }
    }

    #[test]
    fn a_missing_cuda_device_is_refused_with_how_many_there_are() {
        let refusal = DeviceChoice::Cuda(2).find_among(2).unwrap_err().to_string();
        assert!(refusal.contains("cuda:2") && refusal.contains("2 CUDA devices"), "{refusal}");
    }

    #[test]
    fn other_names_are_refused() {
        for choice in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:256"] {
            assert!(choice.parse::<DeviceChoice>().is_err(), "{choice:?}");
        }
    }
}
