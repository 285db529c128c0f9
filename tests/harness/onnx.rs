//! Tiny ONNX models, written field by field (onnx.proto3, IR version 8, opset 17): no file to keep, no Python to run, and
//! a test can say in one line which model it needs.

const FLOAT: u64 = 1;

/// [`add`] with 1.
pub fn add_one(columns: u64) -> Vec<u8> {
    add(1.0, columns)
}

/// `y = x + what` over float32 `[-1, columns]`, batchable along the first dimension.
pub fn add(what: f32, columns: u64) -> Vec<u8> {
    let what = tensor("what", &[1], &what.to_le_bytes());
    let node = node("Add", &["x", "what"], &["y"], "add");
    model(
        &[node],
        &[what],
        &value("x", &[Dim::Any("n"), Dim::Is(columns)]),
        &value("y", &[Dim::Any("n"), Dim::Is(columns)]),
    )
}

/// `y = x + before`, `after = y` over float32 `[-1, 1]`: with `after` handed back as `before`, the sum of all x so far.
pub fn sum_so_far() -> Vec<u8> {
    let nodes = [node("Add", &["x", "before"], &["y"], "add"), node("Identity", &["y"], &["after"], "keep")];
    let tensor = |name| value(name, &[Dim::Any("n"), Dim::Is(1)]);
    graph(&nodes, &[], &[tensor("x"), tensor("before")], &[tensor("y"), tensor("after")])
}

/// As [`add_one`], but with a graph of `steps` products of 256 x 256 matrices in between: about 1 ms of one core each.
/// The answer for `x = 0` is 0. Not batchable: `[1, 1]`.
pub fn slow(steps: usize) -> Vec<u8> {
    let shape = tensor_i64("shape", &[256, 256]);
    let mut nodes = vec![node("Expand", &["x", "shape"], &["a0"], "expand")];
    for step in 0..steps {
        let (input, output) = (format!("a{step}"), format!("a{}", step + 1));
        nodes.push(node("MatMul", &[&input, "a0"], &[&output], &format!("multiply{step}")));
    }
    nodes.push(node("ReduceMax", &[&format!("a{steps}")], &["y"], "reduce"));
    let one = [Dim::Is(1), Dim::Is(1)];
    model(&nodes, &[shape], &value("x", &one), &value("y", &one))
}

/// A well-formed model whose only operator no runtime has.
pub fn unknown_operator() -> Vec<u8> {
    let node = node("NoSuchOperatorOfMast", &["x"], &["y"], "odd");
    let shape = [Dim::Is(1), Dim::Is(4)];
    model(&[node], &[], &value("x", &shape), &value("y", &shape))
}

enum Dim<'a> {
    Is(u64),
    Any(&'a str),
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let byte = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn number(field: u64, value: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value, out);
}

fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(value.len().try_into().unwrap_or(u64::MAX), out);
    out.extend_from_slice(value);
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|input| bytes(1, input.as_bytes(), &mut out));
    outputs.iter().for_each(|output| bytes(2, output.as_bytes(), &mut out));
    bytes(3, name.as_bytes(), &mut out);
    bytes(4, op.as_bytes(), &mut out);
    out
}

fn tensor(name: &str, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    tensor_of(FLOAT, name, dims, raw)
}

fn tensor_i64(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor_of(7, name, &[values.len().try_into().unwrap_or(u64::MAX)], &raw)
}

fn tensor_of(kind: u64, name: &str, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    dims.iter().for_each(|dim| number(1, *dim, &mut out));
    number(2, kind, &mut out);
    bytes(8, name.as_bytes(), &mut out);
    bytes(9, raw, &mut out);
    out
}

fn value(name: &str, shape: &[Dim<'_>]) -> Vec<u8> {
    let mut dims = Vec::new();
    for dim in shape {
        let mut one = Vec::new();
        match dim {
            Dim::Is(size) => number(1, *size, &mut one),
            Dim::Any(symbol) => bytes(2, symbol.as_bytes(), &mut one),
        }
        bytes(1, &one, &mut dims);
    }
    let mut of_tensor = Vec::new();
    number(1, FLOAT, &mut of_tensor);
    bytes(2, &dims, &mut of_tensor);
    let mut kind = Vec::new();
    bytes(1, &of_tensor, &mut kind);
    let mut out = Vec::new();
    bytes(1, name.as_bytes(), &mut out);
    bytes(2, &kind, &mut out);
    out
}

fn model(nodes: &[Vec<u8>], initializers: &[Vec<u8>], input: &[u8], output: &[u8]) -> Vec<u8> {
    graph(nodes, initializers, &[input.to_vec()], &[output.to_vec()])
}

fn graph(nodes: &[Vec<u8>], initializers: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Vec<u8> {
    let mut graph = Vec::new();
    nodes.iter().for_each(|node| bytes(1, node, &mut graph));
    bytes(2, b"mast", &mut graph);
    initializers.iter().for_each(|tensor| bytes(5, tensor, &mut graph));
    inputs.iter().for_each(|input| bytes(11, input, &mut graph));
    outputs.iter().for_each(|output| bytes(12, output, &mut graph));
    let mut opset = Vec::new();
    number(2, 17, &mut opset);
    let mut out = Vec::new();
    number(1, 8, &mut out);
    bytes(7, &graph, &mut out);
    bytes(8, &opset, &mut out);
    out
}
