//! Speaks to the daemon without serving it.

use std::os::fd::OwnedFd;

use engine::{DataType, Device, Dim, Placement, Provider, Signature, TensorSpec};
use mast_engine_process::frame::{At, LoadedModel, Output, Run, Span, ToDaemon, ToWorker};
use mast_engine_process::{Error, Lane, SandboxReport};

pub(crate) fn serve(socket: OwnedFd, lie: &str) -> Result<(), Error> {
    let mut control = Lane::new(socket);
    control.receive()?;
    match lie {
        "silence" => return control.receive().map(|_| ()),
        "garbage-at-start" => return control.send(b"\x01\x01\xff\xff\xff\xff", None),
        "wrong-turn-at-start" => return control.send(&ToDaemon::Shared { shared: true }.encode(), None),
        _ => control.send(&ToDaemon::Ready { sandbox: SandboxReport::default() }.encode(), None)?,
    }
    let file = control.receive_with_file()?.file.ok_or(Error::Closed)?;
    let mut lane = Lane::new(file);
    lane.receive()?;
    match lie {
        "garbage-at-load" => lane.send(&[0xff; 64], None)?,
        "another-device" => lane.send(&ToDaemon::Loaded(loaded("gpu:7")).encode(), None)?,
        "huge-frame" => lane.send(&vec![1; 200_000], None)?,
        _ => lane.send(&ToDaemon::Loaded(loaded("cpu")).encode(), None)?,
    }
    while let Ok(frame) = lane.receive() {
        let ToWorker::Run(run) = ToWorker::decode(frame)? else {
            // Memory for what was held back: say it is filled.
            lane.send(&ToDaemon::Fetched { run: 1 }.encode(), None)?;
            continue;
        };
        match answer(lie, &run) {
            Some(answer) => lane.send(&answer, None)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn loaded(device: &str) -> LoadedModel {
    let spec = |name: &str, datatype| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: vec![Dim::Dynamic(None), Dim::Fixed(4)],
    };
    LoadedModel {
        signature: Signature {
            inputs: vec![spec("input", DataType::Fp32)],
            outputs: vec![spec("output", DataType::Fp32)],
        },
        placement: Placement {
            provider: Provider::Cpu,
            device: Device { id: device.to_owned(), name: "'; DROP TABLE devices".to_owned() },
            attempts: Vec::new(),
            assignments: Vec::new(),
        },
        pending: None,
        fences: Vec::new(),
    }
}

fn answer(lie: &str, run: &Run) -> Option<Vec<u8>> {
    let lent = run.places.first()?.at?;
    let input = run.members.first()?.inputs.first()?.at;
    let done = |number: u64, datatype, shape: &[usize], at: At| {
        let output = Output { datatype, shape: shape.to_vec(), at };
        ToDaemon::Done { run: number, members: vec![vec![output]] }.encode()
    };
    let fp32 = |shape: &[usize], at: At| done(run.run, DataType::Fp32, shape, at);
    let row = &[1, 4];
    Some(match lie {
        "garbage" => b"\x01\x06garbage".to_vec(),
        "empty" => vec![1],
        "another-version" => [&[9], &fp32(row, At::Lent(lent))[1..]].concat(),
        "another-run" => done(run.run + 1, DataType::Fp32, row, At::Lent(lent)),
        "wrong-turn" => ToDaemon::Fetched { run: run.run }.encode(),
        "the-inputs-memory" => fp32(row, At::Lent(input)),
        "outside-the-arena" => fp32(row, At::Lent(Span { segment: 0, offset: usize::MAX - 8, len: 16 })),
        "beyond-the-place" => fp32(row, At::Lent(Span { offset: lent.offset + 8, ..lent })),
        "the-overflow" => fp32(row, At::Lent(Span { segment: 1, ..lent })),
        "another-type" => done(run.run, DataType::Bytes, row, At::Lent(lent)),
        "more-bytes-than-shape" => fp32(&[1, 3], At::Lent(lent)),
        "a-shape-beyond-all" => fp32(&[usize::MAX, usize::MAX], At::Lent(lent)),
        "held-beyond-memory" => fp32(&[1 << 40, 4], At::Held { len: 1 << 44 }),
        "no-members" => ToDaemon::Done { run: run.run, members: Vec::new() }.encode(),
        "goes-away" => return None,
        // The truth, to see that the test can tell.
        _ => fp32(row, At::Lent(lent)),
    })
}
