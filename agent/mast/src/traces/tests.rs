use super::*;

#[test]
fn traces_stay_on_this_box() {
    let check = |otlp: &str, expected: Option<&str>| {
        let config = TracesConfig { otlp: Some(otlp.to_owned()), ..TracesConfig::default() };
        let got = config.collector().ok().flatten().map(|address| address.to_string());
        assert_eq!(got.as_deref(), expected, "{otlp}");
    };
    check("http://127.0.0.1:4318", Some("127.0.0.1:4318"));
    check("http://127.8.8.8:4318/", Some("127.8.8.8:4318"));
    check("http://[::1]:4318", Some("[::1]:4318"));
    for outside in [
        "http://192.0.2.1:4318",
        "http://0.0.0.0:4318",
        "http://[::]:4318",
        "http://localhost:4318",
        "http://127.0.0.1.example.com:4318",
        "http://user@127.0.0.1:4318",
        "http://127.0.0.1",
        "http://127.0.0.1:4318/v1/traces",
        "https://127.0.0.1:4318",
        "127.0.0.1:4318",
        "",
    ] {
        check(outside, None);
    }
    assert_eq!(TracesConfig::default().collector(), Ok(None));
    assert!(TracesConfig { queue_limit: 0, ..TracesConfig::default() }.collector().is_err());
    assert!(TracesConfig { one_in: 0, ..TracesConfig::default() }.collector().is_err());
}

fn finished(parent: Option<front::Parent>) -> Finished {
    Finished {
        id: wire::RequestId::next(),
        protocol: "http",
        parent,
        started: std::time::SystemTime::now(),
        took: Duration::from_millis(1),
        accepted: None,
        model: None,
        ran: None,
        outcome: front::Outcome::Answered,
    }
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let config = TracesConfig { queue_limit: 2, ..TracesConfig::default() };
    let (traces, _exporter) = Traces::new(&config, ([127, 0, 0, 1], 9).into());
    let hook = traces.hook();
    (0..5).for_each(|_| hook(finished(None)));
    let mut text = String::new();
    traces.write_metrics(&mut text);
    assert!(text.contains("mast_traces_dropped_total{reason=\"queue\"} 3\n"), "{text}");
}

#[test]
fn the_caller_decides_whether_its_request_is_traced() {
    let config = TracesConfig { one_in: 4, ..TracesConfig::default() };
    let (traces, mut exporter) = Traces::new(&config, ([127, 0, 0, 1], 9).into());
    let hook = traces.hook();
    let mut taken = || std::iter::from_fn(|| exporter.queue.try_recv().ok()).count();
    (0..8).for_each(|_| hook(finished(None)));
    assert_eq!(taken(), 2);
    let parent = |sampled| Some(front::Parent { trace: [1; 16], span: [1; 8], sampled });
    (0..8).for_each(|_| hook(finished(parent(true))));
    assert_eq!(taken(), 8);
    (0..8).for_each(|_| hook(finished(parent(false))));
    assert_eq!(taken(), 0);
}
