//! One server over one protocol, and a window of load on it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::http::{self, Request};
use harness::load::{self, Until, grpc};
use harness::{Tree, infer};

/// What goes over the wire, made once.
pub(super) enum Call {
    Http(Request),
    Grpc(Bytes),
}

pub(super) struct Lane {
    pub(super) name: String,
    /// Whose rows a ratio may be made of.
    pub(super) ours: bool,
    /// The first process of the server.
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    pub(super) call: Call,
}

/// What one window saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// CPU time of the whole process tree, per reply.
    pub(super) cpu_ms: f64,
    pub(super) resident_mib: f64,
}

impl Lane {
    /// The model's answer as it comes this way.
    pub(super) fn answer(&self) -> Result<Vec<f32>> {
        match &self.call {
            Call::Http(request) => {
                let response = http::send(self.address, request)?;
                ensure!(response.status == 200, "{}: {response}", self.name);
                infer::first_output(&response)
            }
            Call::Grpc(message) => {
                let response = grpc::send(self.address, message).with_context(|| self.name.clone())?;
                match response.raw_output_contents.first() {
                    Some(raw) => Ok(infer::f32_values(raw)),
                    None => {
                        let output = response.outputs.first().context("no output")?;
                        Ok(output.contents.clone().unwrap_or_default().fp32_contents)
                    }
                }
            }
        }
    }

    pub(super) fn window(&self, concurrency: usize, seconds: f64) -> Result<Window> {
        let until = Until::After(Duration::from_secs_f64(seconds));
        let before = Tree::of(self.pid)?.cpu();
        let outcome = match &self.call {
            Call::Http(request) => load::run(self.address, request, concurrency, until),
            Call::Grpc(message) => grpc::run(self.address, message, concurrency, until),
        }
        .with_context(|| format!("{} at concurrency {concurrency}", self.name))?;
        let after = Tree::of(self.pid)?;
        ensure!(outcome.refused == 0, "{} refused at concurrency {concurrency}", self.name);
        ensure!(outcome.replies > 0, "{} did not answer at concurrency {concurrency}", self.name);
        let ms = |part| outcome.quantile(part).as_secs_f64() * 1e3;
        Ok(Window {
            per_second: outcome.throughput(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            cpu_ms: after.cpu().saturating_sub(before).as_secs_f64() * 1e3 / outcome.replies as f64,
            resident_mib: after.resident_bytes() as f64 / f64::from(1 << 20),
        })
    }
}
