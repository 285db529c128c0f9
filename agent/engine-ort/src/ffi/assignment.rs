#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::ptr;

use super::Session;
use super::session::check;

/// A node of the model and the provider that the runtime gave it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssignedNode {
    /// The runtime's name: "CPUExecutionProvider".
    pub(crate) provider: String,
    /// With its domain when that is not ONNX's own: "Add", "com.microsoft.FusedConv".
    pub(crate) operator: String,
}

/// Every node's provider. The session must have been made with `session.record_ep_graph_assignment_info`.
pub(crate) fn assigned_nodes(session: &Session) -> Result<Vec<AssignedNode>, ort::Error> {
    let api = ort::api();
    let mut subgraphs = ptr::null();
    let mut count = 0;
    // SAFETY: the out-pointers are live; the array and all it leads to belong to the live session.
    let subgraphs = unsafe {
        check((api.Session_GetEpGraphAssignmentInfo)(session.pointer(), &raw mut subgraphs, &raw mut count))?;
        slice(subgraphs, count)
    };
    let mut assigned = Vec::new();
    for subgraph in subgraphs {
        let mut nodes = ptr::null();
        let mut count = 0;
        // SAFETY: `subgraph` belongs to the live session, and so do its nodes.
        let (provider, nodes) = unsafe {
            check((api.EpAssignedSubgraph_GetNodes)(*subgraph, &raw mut nodes, &raw mut count))?;
            (text(|out| (api.EpAssignedSubgraph_GetEpName)(*subgraph, out))?, slice(nodes, count))
        };
        for node in nodes {
            // SAFETY: `node` belongs to the live session.
            let (domain, kind) = unsafe {
                (
                    text(|out| (api.EpAssignedNode_GetDomain)(*node, out))?,
                    text(|out| (api.EpAssignedNode_GetOperatorType)(*node, out))?,
                )
            };
            let operator = match domain.as_str() {
                "" | "ai.onnx" => kind,
                domain => format!("{domain}.{kind}"),
            };
            assigned.push(AssignedNode { provider: provider.clone(), operator });
        }
    }
    Ok(assigned)
}

/// # Safety
/// `start` is null or leads to `count` values that live as long as the caller uses them.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if start.is_null() || count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, count) } }
}

/// # Safety
/// `get` is a getter of the C API that writes a NUL-terminated text, which lives until it is copied here.
unsafe fn text(get: impl FnOnce(*mut *const c_char) -> ort_sys::OrtStatusPtr) -> Result<String, ort::Error> {
    let mut text = ptr::null();
    // SAFETY: the caller's promise.
    unsafe {
        check(get(&raw mut text))?;
        Ok(if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() })
    }
}
