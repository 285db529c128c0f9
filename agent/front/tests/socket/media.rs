use crate::agent::{Agent, ECHO_JSON, Setup, add_model};

#[test]
fn what_a_model_cannot_take_is_refused_by_name() {
    let agent = Agent::start(Setup::default());
    let image = "[image]\ninput = \"input\"\nwidth = 2\nheight = 2\n";
    add_model(&agent.repository, "blind", image);
    add_model(&agent.repository, "seeing", &format!("{image}[classify]\noutput = \"output\""));
    let text = "[text]\ntokenizer = \"none.json\"";
    let embed = "[embed]\noutput = \"output\"";
    add_model(&agent.repository, "torn", &format!("{text}\ninputs = {{ ids = \"input\" }}\n{embed}"));
    // What could never answer is not loaded.
    add_model(&agent.repository, "strange", &format!("{text}\n{embed}"));
    let refused = agent.administer("strange", "load", b"");
    assert!(refused.status == 400 && refused.error().contains("[text]"), "{}", refused.text());
    for model in ["blind", "seeing", "torn"] {
        let loaded = agent.administer(model, "load", b"");
        assert_eq!(loaded.status, 200, "{}", loaded.text());
    }
    let check = |model: &str, media: &str, body: &[u8], status: u16, part: &str| {
        let headers = format!("content-type: {media}\r\n");
        let answer = agent.post(&format!("/v2/models/{model}/infer"), &headers, body);
        assert!(
            answer.status == status && answer.error().contains(part),
            "{model} {media}: {}",
            answer.text()
        );
        assert!(answer.header("mast-request-id").is_some());
    };
    check("echo", "image/png", b"\x89PNG", 400, "takes no photo");
    check("blind", "image/png", b"\x89PNG", 400, "[classify] or [detect]");
    check("seeing", "image/jpeg", b"", 400, "not a JPEG or PNG photo");
    check("seeing", "IMAGE/JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF", 400, "cut off");
    check("seeing", "image/png; x=y", b"\x89PNG\r\n\x1a\n", 400, "cannot decode");
    check("none", "image/png", b"", 400, "none");
    check("blind", "text/plain", b"hot", 400, "failed to parse the request JSON buffer");
    // The folder's fault, and its path is nobody's business.
    check("torn", "text/plain", b"hot", 500, "the agent's log says why");
    agent.check_serving();
}

#[test]
fn json_that_calls_itself_text_is_json() {
    let agent = Agent::start(Setup::default());
    let answer = agent.infer("content-type: text/plain;charset=UTF-8\r\n", ECHO_JSON);
    assert_eq!(answer.status, 200, "{}", answer.text());
}
