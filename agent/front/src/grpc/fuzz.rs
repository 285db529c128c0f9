use engine::Buffer;
use prost::Message as _;
use triton::ModelInferRequest;

use super::decode::{declared, decode, inputs};
use super::weigh::weigh;
use crate::decode::Room;

/// Decodes a ModelInferRequest whose bytes are all there. `None`: it is no request.
pub(crate) fn infer(data: &[u8], room: &mut dyn Room) -> Option<()> {
    weigh(data).ok()?;
    let request = ModelInferRequest::decode(data).ok()?;
    let declared = declared(&request.inputs).ok()?;
    let raw = request.raw_input_contents.iter().map(|bytes| Buffer::copy_from(bytes)).collect();
    let tensors = inputs(&request, declared, raw, room).ok()?;
    decode(request, tensors).ok().map(drop)
}
