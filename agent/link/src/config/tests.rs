use super::*;

#[test]
fn a_broker_is_a_url_with_host_and_port() {
    let check = |url: &str, wanted: Option<(bool, &str, u16)>| {
        let broker = Broker::parse(url).ok();
        let wanted = wanted.map(|(tls, host, port)| Broker { tls, host: host.to_owned(), port });
        assert_eq!(broker, wanted, "{url}");
    };
    check("mqtt://127.0.0.1:1883", Some((false, "127.0.0.1", 1883)));
    check("mqtt://hub.example", Some((false, "hub.example", 1883)));
    check("mqtts://hub.example/", Some((true, "hub.example", 8883)));
    check("mqtts://[::1]:9000", Some((true, "::1", 9000)));
    check("mqtt://[::1]", Some((false, "::1", 1883)));
    check("hub.example:1883", None);
    check("http://hub.example", None);
    check("mqtt://", None);
    check("mqtt://:1883", None);
    check("mqtt://hub:0", None);
    check("mqtt://hub:65536", None);
    check("mqtt://hub:port", None);
    check("mqtt://user:secret@hub", None);
    check("mqtt://hub/path", None);
    check("mqtt://[::1", None);
    check("mqtt://[hub]:1", None);
    check("mqtt://[::1]1", None);
}

#[test]
fn a_bad_value_names_its_key() {
    let check = |change: fn(&mut Config), wanted: Option<&str>| {
        let mut config = Config::default();
        change(&mut config);
        let key = match config.validate() {
            Ok(()) => None,
            Err(Error::Config { key, .. }) => Some(key),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(key, wanted);
    };
    check(|_| {}, None);
    check(|c| c.broker = "tcp://x".to_owned(), Some("broker"));
    check(|c| c.ca_file = Some("ca.pem".into()), Some("broker"));
    check(|c| c.username = Some("box".to_owned()), Some("username"));
    check(
        |c| {
            c.broker = "mqtts://hub".to_owned();
            c.client_key_file = Some("key.pem".into());
        },
        Some("client_cert_file"),
    );
    check(|c| c.interval_s = 0, Some("interval_s"));
    check(|c| c.backoff_min_ms = 0, Some("backoff_min_ms"));
    check(|c| c.backoff_max_ms = 10, Some("backoff_max_ms"));
    check(|c| c.resend_after_ms = 0, Some("resend_after_ms"));
    check(|c| c.window_batches = 0, Some("window_batches"));
    check(|c| c.keep_alive_s = 0, Some("keep_alive_s"));
    check(|c| c.will_delay_s = 100_000, Some("will_delay_s"));
}
