use prost::Message as _;
use triton::ModelInferRequest;
use wire::{Error, ErrorCode};

use super::decode::{Asked, Declared, declared, decode, inputs};
use super::message::{Field, Incoming, Wire};
use super::weigh::weigh;
use crate::app::App;
use crate::body::{Budget, ReadError};
use crate::call::{Call, Caller};
use crate::decode::{MAX_TENSORS, Room as _, byte_size};
use crate::target::Target;
use engine::Buffer;

/// `raw_input_contents`
const RAW: Field = Field { number: 7, wire: Wire::Length };

/// Reads a ModelInferRequest off the connection: its head, which names the model, and then each tensor behind it into
/// the memory of that model. `budget` holds the whole message as it came; `id` is set to the client's as soon as it is known.
///
/// # Errors
/// After [`ReadError::Refused`] the rest of the message is still to be read.
pub(super) async fn read(
    app: &App,
    caller: Caller,
    incoming: &mut Incoming<'_>,
    mut budget: Budget,
    id: &mut String,
) -> Result<(Call, Asked), ReadError> {
    incoming.unpack(app.body_limit, &mut budget).await?;
    let (head, tensors_follow) = read_head(incoming, &mut budget).await?;
    budget.spend(weigh(&head)?)?;
    let request = ModelInferRequest::decode(head.as_slice())
        .map_err(|error| Error::invalid(format!("the message is no ModelInferRequest: {error}")))?;
    id.clone_from(&request.id);
    let target = target(&request.model_name, &request.model_version)?;
    let mut call = Call::open(app, caller, target, budget)?;
    call.expects(request.inputs.len())?;
    let declared = declared(&request.inputs)?;
    let mut raw = Vec::with_capacity(declared.len());
    if tensors_follow {
        raw.push(read_raw(incoming, &mut call, &declared, raw.len()).await?);
        while let Some(field) = incoming.field().await? {
            if field != RAW {
                let text =
                    "raw_input_contents is the last field of a message, as protobuf's encoders write it";
                return Err(Error::invalid(text).into());
            }
            raw.push(read_raw(incoming, &mut call, &declared, raw.len()).await?);
        }
        if raw.len() < declared.len() {
            let (got, expected) = (raw.len(), declared.len());
            let text =
                format!("raw_input_contents has {got} entries for {expected} inputs: all are raw, or none");
            return Err(Error::invalid(text).into());
        }
    }
    let tensors = inputs(&request, declared, raw, &mut call)?;
    Ok((call, decode(request, tensors)?))
}

/// Everything before the first tensor, and whether one follows.
async fn read_head(incoming: &mut Incoming<'_>, budget: &mut Budget) -> Result<(Vec<u8>, bool), ReadError> {
    let mut head = Vec::with_capacity(256);
    // Parameters, inputs, outputs: each takes many times its bytes, and no model has that many.
    let mut entries = 0;
    while let Some(field) = incoming.field().await? {
        if field == RAW {
            return Ok((head, true));
        }
        entries += usize::from(matches!(field.number, 4..=6));
        if entries > MAX_TENSORS {
            let text = format!("a request has at most {MAX_TENSORS} inputs, outputs and parameters");
            return Err(Error::invalid(text).into());
        }
        incoming.copy(field, &mut head, budget).await?;
    }
    Ok((head, false))
}

/// The bytes of one input, against its declaration before any memory is taken for them.
async fn read_raw(
    incoming: &mut Incoming<'_>,
    call: &mut Call,
    inputs: &[Declared],
    index: usize,
) -> Result<Buffer, ReadError> {
    let length = incoming.length().await?;
    let Some(Declared { name, datatype, shape }) = inputs.get(index) else {
        let text = format!("raw_input_contents has more entries than the {} inputs", inputs.len());
        return Err(Error::invalid(text).into());
    };
    if let Some(expected) = byte_size(name, *datatype, shape)?
        && expected != length
    {
        let text = format!(
            "input '{name}': {datatype} {shape:?} needs {expected} bytes, raw_input_contents has {length}"
        );
        return Err(Error::invalid(text).into());
    }
    let mut memory = call.take(length)?;
    incoming.fill(&mut memory).await?;
    Ok(memory.freeze())
}

/// The model of a message; an empty version is the newest that is ready.
pub(super) fn target(model: &str, version: &str) -> Result<Target, Error> {
    let version = match version {
        "" => None,
        digits => Some(digits.parse().map_err(|_| {
            Error::new(ErrorCode::InvalidArgument, format!("'{digits}' is no version: versions are digits"))
        })?),
    };
    Ok(Target { model: model.to_owned(), version })
}
