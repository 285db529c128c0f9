use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::sysfs::{entries, field, name, number, text};

/// What a box is made of. Absent is not zero: a value the kernel does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inventory {
    /// Format of this document.
    pub(crate) version: u32,
    pub(crate) board: Board,
    pub(crate) processor: Processor,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) accelerators: Vec<Accelerator>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) networks: Vec<Network>,
}

/// SMBIOS (DMTF DSP0134) as the kernel exports it, or the device tree's model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Board {
    pub(crate) vendor: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) firmware_version: Option<String>,
    pub(crate) firmware_date: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Processor {
    pub(crate) model: Option<String>,
    pub(crate) online: usize,
}

/// A PCI display controller or processing accelerator (classes 03 and 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Accelerator {
    pub(crate) address: String,
    /// PCI vendor and device, `10de:27b8`.
    pub(crate) id: String,
    pub(crate) driver: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) model: Option<String>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) rotational: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Network {
    pub(crate) name: String,
    /// `up`, `down`, `unknown`, as the kernel says.
    pub(crate) state: Option<String>,
    pub(crate) speed_mbit: Option<u64>,
}

/// Reads the box whose file system is at `root`.
pub(crate) fn read(root: &Path) -> Inventory {
    let sys = root.join("sys");
    let proc = root.join("proc");
    Inventory {
        version: 1,
        board: read_board(&sys, &proc),
        processor: Processor {
            model: field(&proc.join("cpuinfo"), "model name"),
            online: entries(&sys.join("devices/system/cpu")).iter().filter(|path| is_cpu(path)).count(),
        },
        memory_bytes: field(&proc.join("meminfo"), "MemTotal")
            .and_then(|value| value.strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .map(|kib| kib.saturating_mul(1024)),
        accelerators: entries(&sys.join("bus/pci/devices"))
            .iter()
            .filter_map(|path| read_pci(path))
            .collect(),
        disks: entries(&sys.join("block")).iter().filter_map(|path| read_disk(path)).collect(),
        networks: entries(&sys.join("class/net"))
            .iter()
            .filter(|path| path.join("device").exists())
            .map(|path| Network {
                name: name(path),
                state: text(&path.join("operstate")),
                speed_mbit: number(&path.join("speed")),
            })
            .collect(),
    }
}

fn read_board(sys: &Path, proc: &Path) -> Board {
    let dmi = sys.join("class/dmi/id");
    Board {
        vendor: text(&dmi.join("sys_vendor")),
        product: text(&dmi.join("product_name")).or_else(|| {
            let model = text(&proc.join("device-tree/model"))?;
            Some(model.trim_end_matches('\0').to_owned())
        }),
        firmware_version: text(&dmi.join("bios_version")),
        firmware_date: text(&dmi.join("bios_date")),
    }
}

fn is_cpu(path: &Path) -> bool {
    let name = name(path);
    let numbered = name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    // cpu0 often cannot be taken offline and then has no such file.
    numbered && text(&path.join("online")).is_none_or(|online| online == "1")
}

fn read_pci(path: &Path) -> Option<Accelerator> {
    let class = text(&path.join("class"))?;
    if !class.starts_with("0x03") && !class.starts_with("0x12") {
        return None;
    }
    let hex = |file: &str| Some(text(&path.join(file))?.trim_start_matches("0x").to_owned());
    Some(Accelerator {
        address: name(path),
        id: format!("{}:{}", hex("vendor")?, hex("device")?),
        driver: path.join("driver").canonicalize().ok().map(|driver| name(&driver)),
    })
}

fn read_disk(path: &Path) -> Option<Disk> {
    // Loop, RAM and mapped devices have no hardware behind them.
    if !path.join("device").exists() {
        return None;
    }
    Some(Disk {
        name: name(path),
        model: text(&path.join("device/model")),
        // "size" counts 512-byte sectors whatever the disk's own sector is (Documentation/ABI/stable/sysfs-block).
        size_bytes: number(&path.join("size")).map(|sectors| sectors.saturating_mul(512)),
        rotational: number(&path.join("queue/rotational")).map(|flag| flag == 1),
    })
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_absent = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
        let gib = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{} GiB", bytes >> 30),
            None => "not told".to_owned(),
        };
        writeln!(f, "board      {} {}", or_absent(&self.board.vendor), or_absent(&self.board.product))?;
        writeln!(
            f,
            "firmware   {} of {}",
            or_absent(&self.board.firmware_version),
            or_absent(&self.board.firmware_date)
        )?;
        writeln!(f, "processor  {} online, {}", self.processor.online, or_absent(&self.processor.model))?;
        writeln!(f, "memory     {}", gib(self.memory_bytes))?;
        for gpu in &self.accelerators {
            writeln!(f, "gpu        {} {} driver {}", gpu.address, gpu.id, or_absent(&gpu.driver))?;
        }
        for disk in &self.disks {
            writeln!(f, "disk       {} {} {}", disk.name, gib(disk.size_bytes), or_absent(&disk.model))?;
        }
        for network in &self.networks {
            let speed =
                network.speed_mbit.map_or_else(|| "not told".to_owned(), |mbit| format!("{mbit} Mbit/s"));
            writeln!(f, "network    {} {} {speed}", network.name, or_absent(&network.state))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn box_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut fs::File::create(path).unwrap(), content.as_bytes()).unwrap();
        }
        root
    }

    #[test]
    fn a_server_with_a_gpu() {
        let root = box_of(&[
            ("sys/class/dmi/id/sys_vendor", "Acme\n"),
            ("sys/class/dmi/id/product_name", "Shelter 1U\n"),
            ("sys/class/dmi/id/bios_version", "1.2\n"),
            ("proc/meminfo", "MemTotal:       2097152 kB\nMemFree: 1 kB\n"),
            ("proc/cpuinfo", "processor : 0\nmodel name\t: Fast CPU\n"),
            ("sys/devices/system/cpu/cpu0/x", ""),
            ("sys/devices/system/cpu/cpu1/online", "0\n"),
            ("sys/devices/system/cpu/cpufreq/x", ""),
            ("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n"),
            ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:01:00.0/device", "0x27b8\n"),
            ("sys/bus/pci/devices/0000:02:00.0/class", "0x020000\n"),
            ("sys/block/nvme0n1/size", "4096\n"),
            ("sys/block/nvme0n1/device/model", "Disk 9\n"),
            ("sys/block/loop0/size", "8\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/device/x", ""),
            ("sys/class/net/lo/operstate", "unknown\n"),
        ]);
        let inventory = read(root.path());
        assert_eq!(inventory.processor, Processor { model: Some("Fast CPU".to_owned()), online: 1 });
        assert_eq!(inventory.memory_bytes, Some(2 << 30));
        assert_eq!(inventory.accelerators.len(), 1);
        assert_eq!(inventory.accelerators[0].id, "10de:27b8");
        assert_eq!(inventory.disks.len(), 1);
        assert_eq!(inventory.disks[0].size_bytes, Some(4096 * 512));
        assert_eq!(inventory.networks.len(), 1);
        assert_eq!(inventory.networks[0].speed_mbit, None);
        assert!(inventory.to_string().contains("Shelter 1U"));
    }

    #[test]
    fn a_box_that_tells_nothing_is_all_absent() {
        let inventory = read(box_of(&[]).path());
        assert_eq!(inventory.memory_bytes, None);
        assert_eq!(inventory.board.vendor, None);
        assert!(inventory.to_string().contains("not told"));
    }
}
