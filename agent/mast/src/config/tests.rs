use super::*;

const SITE: &str = "[site]\norg=\"o\"\nregion=\"r\"\nsite=\"s\"\nbox=\"b\"\njurisdiction=\"DE\"\n";

/// A mistake is refused before any port is opened, by a text with the key as it stands in the file, and the cure.
#[test]
fn a_mistake_names_its_key_and_the_cure() {
    let check = |text: &str, words: &[&str]| {
        let config: Config = toml::from_str(text).unwrap();
        let said = config.validate().unwrap_err().to_string();
        for word in words {
            assert!(said.contains(word), "{text}: '{said}' has no '{word}'");
        }
    };
    check("[listen]\nconnection_limit = 0", &["listen.connection_limit", "at least 1"]);
    check("[listen]\nhttp = \"0.0.0.0:1\"", &["listen.http", "insecure_listen = true"]);
    check("[serve]\nqueue_limit = 0", &["serve.queue_limit", "at least 1"]);
    check("[serve]\nbuffered_limit_bytes = 0", &["serve.buffered_limit_bytes", "at least 1"]);
    check("[outbox]\nquota_bytes = 10", &["outbox.quota_bytes", "4 * segment_bytes"]);
    check("[outbox]\ngroup_limit = 0", &["outbox.group_limit", "at least 1"]);
    check("[outbox]\nrecord_limit_bytes = 1000", &["outbox.record_limit_bytes", "16384"]);
    check("[shutdown]\nbudget_ms = 1000", &["shutdown.uplink_budget_ms", "less than shutdown.budget_ms"]);
    check(
        "[traces]\notlp = \"http://192.0.2.1:4318\"",
        &["traces.otlp", "loopback", "http://127.0.0.1:4318"],
    );
    check("[traces]\nqueue_limit = 0", &["traces.queue_limit", "at least 1"]);
    check("[hub]\nbroker = \"mqtt://b\"", &["[hub]", "[site]", "jurisdiction"]);
    check(&format!("{SITE}[hub]\nbroker = \"tcp://b\""), &["hub.broker", "mqtts://host:port"]);
    check(&format!("{SITE}[hub]\ninterval_s = 0"), &["hub.interval_s", "1 to 86400"]);
}

#[test]
fn a_key_that_is_gone_names_the_new_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mast.toml");
    let check = |text: &str, words: &[&str]| {
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
        let said = crate::exit::chain(&Config::read(&path).unwrap_err());
        for word in words {
            assert!(said.contains(word), "{text}: '{said}' has no '{word}'");
        }
    };
    let words = ["listen.allow_repository_control is gone", "control socket", "admin = true"];
    check("[listen]\nallow_repository_control = false", &words);
    check("[listen]\nno_such_key = 1", &["no_such_key"]);
}
