//! Writes ONNX models of a few nodes: the fields of `onnx.proto3` that the tests need, in protobuf wire format.

/// `TensorProto.DataType`
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT64: u64 = 7;
pub(crate) const STRING: u64 = 8;
pub(crate) const BOOL: u64 = 9;
pub(crate) const COMPLEX64: u64 = 14;
pub(crate) const FLOAT8: u64 = 17;

#[derive(Default)]
pub(crate) struct Model {
    graph: Vec<u8>,
    external_opset: bool,
}

pub(crate) enum Dim {
    Size(u64),
    Name(&'static str),
}

impl Model {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn node(mut self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.push_node(op, "", inputs, output, &[]);
        self
    }

    /// A node of a domain that no runtime knows.
    pub(crate) fn foreign_node(mut self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.external_opset = true;
        self.push_node(op, "nobody.knows", inputs, output, &[]);
        self
    }

    fn push_node(&mut self, op: &str, domain: &str, inputs: &[&str], output: &str, attributes: &[u8]) {
        let mut node = Vec::new();
        for input in inputs {
            bytes(&mut node, 1, input.as_bytes());
        }
        bytes(&mut node, 2, output.as_bytes());
        bytes(&mut node, 4, op.as_bytes());
        if !attributes.is_empty() {
            bytes(&mut node, 5, attributes);
        }
        bytes(&mut node, 7, domain.as_bytes());
        bytes(&mut self.graph, 1, &node);
    }

    /// `Concat` needs its axis.
    pub(crate) fn concat(mut self, inputs: &[&str], output: &str) -> Self {
        let mut axis = Vec::new();
        bytes(&mut axis, 1, b"axis");
        number(&mut axis, 3, 0);
        number(&mut axis, 20, 2);
        self.push_node("Concat", "", inputs, output, &axis);
        self
    }

    pub(crate) fn constant(mut self, name: &str, element: u64, dims: &[u64], raw: &[u8]) -> Self {
        let mut tensor = Vec::new();
        for dim in dims {
            number(&mut tensor, 1, *dim);
        }
        number(&mut tensor, 2, element);
        bytes(&mut tensor, 8, name.as_bytes());
        bytes(&mut tensor, 9, raw);
        bytes(&mut self.graph, 5, &tensor);
        self
    }

    pub(crate) fn input(self, name: &str, element: u64, dims: &[Dim]) -> Self {
        self.value(11, name, &tensor_type(element, Some(dims)))
    }

    pub(crate) fn output(self, name: &str, element: u64, dims: &[Dim]) -> Self {
        self.value(12, name, &tensor_type(element, Some(dims)))
    }

    pub(crate) fn input_of_unknown_rank(self, name: &str, element: u64) -> Self {
        self.value(11, name, &tensor_type(element, None))
    }

    /// An input whose type is the message `field` of `TypeProto` around a tensor type: 4 sequence, 9 optional.
    pub(crate) fn wrapped_input(self, name: &str, field: u64, element: u64) -> Self {
        let mut inner = Vec::new();
        bytes(&mut inner, 1, &tensor_type(element, Some(&[])));
        let mut outer = Vec::new();
        bytes(&mut outer, field, &inner);
        self.value(11, name, &outer)
    }

    pub(crate) fn wrapped_output(self, name: &str, field: u64, element: u64) -> Self {
        let mut inner = Vec::new();
        bytes(&mut inner, 1, &tensor_type(element, Some(&[])));
        let mut outer = Vec::new();
        bytes(&mut outer, field, &inner);
        self.value(12, name, &outer)
    }

    fn value(mut self, field: u64, name: &str, type_proto: &[u8]) -> Self {
        let mut value = Vec::new();
        bytes(&mut value, 1, name.as_bytes());
        bytes(&mut value, 2, type_proto);
        bytes(&mut self.graph, field, &value);
        self
    }

    pub(crate) fn build(mut self) -> Vec<u8> {
        bytes(&mut self.graph, 2, b"graph");
        let mut model = Vec::new();
        number(&mut model, 1, 9);
        bytes(&mut model, 2, b"mast tests");
        bytes(&mut model, 7, &self.graph);
        bytes(&mut model, 8, &opset("", 19));
        if self.external_opset {
            bytes(&mut model, 8, &opset("nobody.knows", 1));
        }
        model
    }
}

fn opset(domain: &str, version: u64) -> Vec<u8> {
    let mut opset = Vec::new();
    bytes(&mut opset, 1, domain.as_bytes());
    number(&mut opset, 2, version);
    opset
}

fn tensor_type(element: u64, dims: Option<&[Dim]>) -> Vec<u8> {
    let mut tensor = Vec::new();
    number(&mut tensor, 1, element);
    if let Some(dims) = dims {
        let mut shape = Vec::new();
        for dim in dims {
            let mut encoded = Vec::new();
            match dim {
                Dim::Size(size) => number(&mut encoded, 1, *size),
                Dim::Name(name) => bytes(&mut encoded, 2, name.as_bytes()),
            }
            bytes(&mut shape, 1, &encoded);
        }
        bytes(&mut tensor, 2, &shape);
    }
    let mut type_proto = Vec::new();
    bytes(&mut type_proto, 1, &tensor);
    type_proto
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}
