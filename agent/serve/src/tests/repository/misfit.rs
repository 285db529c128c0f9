//! Configurations against the models that they are for.

use super::*;

#[tokio::test]
async fn clients_see_the_shapes_of_the_configuration() {
    let pbtxt = r#"max_batch_size: 8
        input [ { name: "input" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape: { shape: [ 4 ] } } ]
        output [ { name: "output" data_type: TYPE_FP32 dims: [ 2, 1, 2 ] reshape: { shape: [ 4 ] } } ]
        dynamic_batching { }"#;
    let site = Site::started(&[THREE[0], ("m/config.pbtxt", pbtxt)], explicit()).await;
    let view = site.serve.find("m", None).unwrap();
    assert_eq!(view.signature.inputs[0].wire_shape(), [-1, 2, 2]);
    assert_eq!(view.warnings.len(), 0);
    let mut request = rows(&[7.0, 8.0]);
    let error = site.send(request.clone_with_shape(vec![2, 4])).await.unwrap_err();
    assert!(error.message.contains("[-1, 2, 2]"), "{error}");
    request = request.clone_with_shape(vec![2, 2, 2]);
    let part = site.send(request).await.unwrap();
    assert_eq!(part.outputs[0].tensor.shape(), [2, 2, 1, 2]);
    assert_eq!(value(&part), 7.0);
}

trait WithShape {
    fn clone_with_shape(&self, shape: Vec<usize>) -> Request;
}

impl WithShape for Request {
    fn clone_with_shape(&self, shape: Vec<usize>) -> Request {
        let NamedTensor { name, tensor } = &self.inputs[0];
        let tensor = Tensor::new(tensor.datatype(), shape, tensor.data().clone()).unwrap();
        let inputs = vec![NamedTensor { name: name.clone(), tensor }];
        Request { inputs, ..request(0.0) }
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_its_model_does_not_load() {
    let check = async |file: &str, text: &str, part: &str| {
        let site = Site::started(&[THREE[0], (file, text)], explicit()).await;
        let (_, state, reason) = site.index().remove(0);
        assert!(state == State::Unavailable && reason.contains(part), "{text}: {reason}");
    };
    let input = |name, ty| format!("max_batch_size: 1 input {{ name: \"{name}\" data_type: {ty} dims: 4 }}");
    check("m/config.pbtxt", &input("x", "TYPE_FP32"), "no input 'x': it has input").await;
    check("m/config.pbtxt", &input("input", "TYPE_INT8"), "INT8").await;
    check("m/config.pbtxt", "instance_group { kind: KIND_GPU }", "no backend").await;
    check("m/config.pbtxt", "instance_group { gpus: 3 }", "gpus names 3").await;
    check("m/config.pbtxt", "default_model_filename: \"a.onnx\"", "has no a.onnx").await;
    check("m/model.toml", "[classify]\noutput = \"scores\"", "[classify] names 'scores'").await;
    check("m/model.toml", "[image]\ninput = \"x\"\nwidth = 1\nheight = 1", "[image] names 'x'").await;
    check("m/model.toml", "[embed]\noutput = \"vector\"", "[embed] names 'vector'").await;
    check("m/model.toml", "[text]", "[text] names 'input_ids'").await;
    check("m/model.toml", "[text.inputs]\nids = \"input\"\nmask = \"mask\"", "[text] names 'mask'").await;
    let std = "[image]\ninput = \"input\"\nwidth = 1\nheight = 1\nstd = [1.0, 0.0, 1.0]";
    check("m/model.toml", std, "std").await;
    let sample = |what: &str| {
        format!(
            "max_batch_size: 2 model_warmup {{ name: \"w\" batch_size: 1 inputs {{ key: \"input\" value {{ {what} }} }} }}"
        )
    };
    check("m/config.pbtxt", &sample("data_type: TYPE_FP32 dims: 3 zero_data: true"), "[1, 3]").await;
    check("m/config.pbtxt", &sample("data_type: TYPE_FP32 dims: 4 input_data_file: \"no\""), "warmup/no")
        .await;
    check("m/config.pbtxt", "model_warmup { name: \"w\" }", "'input' is missing").await;
}

#[tokio::test]
async fn warm_up_samples_run_before_the_model_serves() {
    let pbtxt = r#"max_batch_size: 4
        model_warmup [
          { name: "random" batch_size: 2 count: 3
            inputs { key: "input" value { data_type: TYPE_FP32 dims: 4 random_data: true } } },
          { name: "file" batch_size: 4
            inputs { key: "input" value { data_type: TYPE_FP32 dims: 4 input_data_file: "row" } } } ]"#;
    let files = [THREE[0], ("m/config.pbtxt", pbtxt), ("m/warmup/row", "0123456789abcdef")];
    let site = Site::started(&files, explicit()).await;
    assert_eq!(site.index()[0].1, State::Ready, "{:?}", site.index());
    assert_eq!(site.runs.load(Ordering::SeqCst), 1 + 3 + 1);
}
