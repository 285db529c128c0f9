//! The memory budget, and who gives back what.

use super::*;

#[tokio::test]
async fn a_load_that_does_not_fit_is_refused_with_the_numbers() {
    let budget = |bytes| Config { memory_budget_bytes: Some(bytes), ..Config::default() };
    // Ten bytes on disk are measured as a hundred in memory.
    let ten = "0123456789";
    let files = [("a/1/model.onnx", ten), ("b/1/model.onnx", ten)];
    let site = Site::started(&files, budget(220)).await;
    assert_eq!(site.serve.find("a", None).unwrap().footprint.host_bytes, 100);
    assert_eq!(site.serve.memory().host_bytes, 200);

    // By the size of its files.
    site.put("c/1/model.onnx", &ten.repeat(3));
    site.asked();
    let error = site.serve.load("c").await.unwrap_err();
    for part in ["needs 30 bytes", "200 of 220", "a version 1: 100", "b version 1: 100", "size of its files"]
    {
        assert!(error.message.contains(part), "{error} is without {part}");
    }
    assert_eq!(site.asked(), [""; 0], "no backend was asked");

    // By what it was measured to take: the estimate fits, the model does not, and is gone again.
    site.put("c/1/model.onnx", ten);
    let error = site.serve.load("c").await.unwrap_err();
    assert!(error.message.contains("needs 100 bytes of host memory (measured)"), "{error}");
    assert_eq!((site.serve.memory().host_bytes, site.asked().len()), (200, 1));
    let error = site.serve.load("c").await.unwrap_err();
    assert!(error.message.contains("measured at its last load"), "{error}");
    assert_eq!(site.asked(), [""; 0], "it is known now");

    // A swap needs both.
    let error = site.serve.load("a").await.unwrap_err();
    assert!(error.message.contains("both must fit"), "{error}");
    assert!(site.serve.is_model_ready("a", None).unwrap());

    // An unload gives it back.
    site.serve.unload("b").await.unwrap();
    assert_eq!(site.serve.memory().host_bytes, 100);
    site.serve.load("c").await.unwrap();
    site.serve.unload("c").await.unwrap();
    for _ in 0..20 {
        // What is swapped out is waited for.
        site.serve.load("a").await.unwrap();
    }
    site.serve.unload("a").await.unwrap();
    eventually("all memory is given back", || site.serve.memory() == Footprint::default()).await;
}

#[tokio::test]
async fn a_lost_model_gives_its_room_to_its_successor() {
    let script = FakeScript { lose_on: Some(13.0), ..FakeScript::default() };
    let config = Config { memory_budget_bytes: Some(150), ..explicit() };
    let site = Site::scripted(&[("m/1/model.onnx", "0123456789")], config, script);
    site.serve.load_all().await;
    assert_eq!(site.send(request(13.0)).await.unwrap_err().code, ErrorCode::Internal);
    eventually("it is loaded again", || site.serve.is_model_ready("m", None).unwrap()).await;
    site.send(request(1.0)).await.unwrap();
    assert_eq!(site.serve.memory().host_bytes, 100);
}

#[tokio::test]
async fn a_version_that_is_swapped_out_answers_what_it_has_and_then_frees_its_memory() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let site = Site::scripted(
        &[("m/1/model.onnx", "0123456789"), ("m/model.toml", "warmup = false")],
        explicit(),
        script,
    );
    site.serve.load_all().await;
    let held = gate.close();
    let reservation = site.serve.reserve(BODY).unwrap();
    let running = site.serve.infer(request(1.0), reservation).await.unwrap();
    eventually("it is in the engine", || site.runs.load(Ordering::SeqCst) == 1).await;
    site.put("m/2/model.onnx", "01234");
    site.serve.load("m").await.unwrap();
    assert_eq!((site.versions(), site.serve.memory().host_bytes), (vec![2], 150));
    drop(held);
    assert_eq!(running.single().await.unwrap().model_version, 1);
    eventually("its memory is back", || site.serve.memory().host_bytes == 50).await;
}

#[tokio::test]
async fn instances_are_loaded_and_counted() {
    let site =
        Site::started(&[("m/1/model.onnx", "0123456789"), ("m/model.toml", "instances = 3")], explicit())
            .await;
    let loads = site.asked().len();
    assert!(loads == 3 || loads == 1, "each is loaded, or shares the weights of the first");
    assert_eq!(site.runs.load(Ordering::SeqCst), 3, "each is warm");
    assert_eq!(site.serve.memory().host_bytes, 100 * loads as u64);
}
