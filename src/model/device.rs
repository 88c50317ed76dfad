//! Which device computes.

use super::ModelError;
use tch::{Cuda, Device};

/// The device named by `auto` (the first CUDA device if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// Another name, or a CUDA device that is not there.
pub fn choose(choice: &str) -> Result<Device, ModelError> {
    let cuda_devices = if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 };
    choose_among(choice, cuda_devices)
}

fn choose_among(choice: &str, cuda_devices: usize) -> Result<Device, ModelError> {
    let unknown = || ModelError::UnknownDevice(choice.to_owned());
    let index = match choice {
        "cpu" => return Ok(Device::Cpu),
        "auto" if cuda_devices == 0 => return Ok(Device::Cpu),
        "auto" | "cuda" => 0,
        other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()).ok_or_else(unknown)?,
    };
    if index < cuda_devices {
        Ok(Device::Cuda(index))
    } else {
        Err(ModelError::NoSuchDevice { choice: choice.to_owned(), cuda_devices })
    }
}

/// The name by which [`choose`] finds this device again: `cpu`, `cuda:0`.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Cpu => "cpu".to_owned(),
        // `choose` returns no other.
        other => format!("{other:?}").to_lowercase(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_the_first_cuda_device_and_else_the_cpu() {
        assert_eq!(choose_among("auto", 2).unwrap(), Device::Cuda(0));
        assert_eq!(choose_among("auto", 0).unwrap(), Device::Cpu);
    }

    #[test]
    fn a_device_is_found_again_by_its_description() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(choose_among(&describe(device), 4).unwrap(), device);
        }
    }

    #[test]
    fn a_missing_cuda_device_is_refused_with_how_many_there_are() {
        for (choice, there) in [("cuda", 0), ("cuda:2", 2)] {
            let refusal = choose_among(choice, there).unwrap_err().to_string();
            assert!(refusal.contains(choice) && refusal.contains(&format!("{there} CUDA devices")), "{refusal}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for choice in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(matches!(choose_among(choice, 8), Err(ModelError::UnknownDevice(_))), "{choice:?}");
        }
    }
}
