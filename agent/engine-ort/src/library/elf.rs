//! The first 20 bytes of an ELF file (System V ABI, "ELF Header"): is it one, and for which machine.

use std::io::{self, Read};

/// Rust's name of the architecture this program was built for.
pub(super) const THIS_ARCHITECTURE: &str = std::env::consts::ARCH;

/// `e_machine` values of the machines sites have, with their names.
const MACHINES: [(u16, &str); 6] =
    [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64"), (258, "loongarch64")];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Machine {
    This,
    /// The name of another architecture.
    Other(String),
    /// Why it is no ELF shared object.
    NotElf(&'static str),
}

pub(super) fn read_machine(file: &mut impl Read) -> io::Result<Machine> {
    let mut header = [0_u8; 20];
    match file.read_exact(&mut header) {
        Ok(()) => Ok(machine(&header)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Ok(Machine::NotElf("it is shorter than an ELF header"))
        }
        Err(error) => Err(error),
    }
}

fn machine(header: &[u8; 20]) -> Machine {
    const SHARED_OBJECT: u16 = 3;
    let [0x7f, b'E', b'L', b'F', class, encoding, ..] = *header else {
        return Machine::NotElf("it is no ELF file");
    };
    let word = |low: usize| {
        let bytes = [header[low], header[low + 1]];
        if encoding == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let name = MACHINES
        .iter()
        .find(|(value, _)| *value == word(18))
        .map_or_else(|| format!("ELF machine {}", word(18)), |(_, name)| (*name).to_owned());
    match (class, encoding) {
        (2, 1) if name == THIS_ARCHITECTURE && word(16) == SHARED_OBJECT => Machine::This,
        (2, 1) if name == THIS_ARCHITECTURE => Machine::NotElf("it is no shared object"),
        (2, 1) => Machine::Other(name),
        (1, _) => Machine::Other(format!("{name} (32-bit)")),
        (2, _) => Machine::Other(format!("{name} (big-endian)")),
        _ => Machine::NotElf("its ELF class is unknown"),
    }
}
