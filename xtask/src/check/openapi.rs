//! docs/specs/openapi.yaml names the routes of `agent/front/src/route.rs`, all of those and no other, and describes every
//! object that it speaks of. Both files are read as text, in the form that they are written in.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Tree;
use super::tree::code;

const DOCUMENT: &str = "docs/specs/openapi.yaml";
const ROUTES: &str = "agent/front/src/route.rs";
/// Nested under `/v1` there.
const OPENAI: &str = "agent/front/src/openai.rs";

/// Of other listeners than `http`.
const ELSEWHERE: [&str; 2] = ["/control/", "/metrics"];

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

type Operation = (String, &'static str);

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let (Some(document), Some(routes)) = (tree.files.get(DOCUMENT), tree.files.get(ROUTES)) else {
        return Ok(vec![format!("no {DOCUMENT} or no {ROUTES}")]);
    };
    let documented = documented(document);
    let mut served = served(routes);
    served.extend(tree.files.get(OPENAI).into_iter().flat_map(|routes| under("/v1", routes)));
    let mut found = Vec::new();
    for (path, method) in served.difference(&documented) {
        found.push(format!("{DOCUMENT}: {method} {path} is served and not described"));
    }
    for (path, method) in documented.difference(&served) {
        found.push(format!("{DOCUMENT}: {method} {path} is described and not served"));
    }
    found.extend(
        bare_objects(document).map(|line| format!("{DOCUMENT}:{line}: an object without properties")),
    );
    Ok(found)
}

fn documented(document: &str) -> BTreeSet<Operation> {
    let mut path = "";
    let mut found = BTreeSet::new();
    for line in document.lines().skip_while(|line| *line != "paths:").skip(1) {
        if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            break;
        }
        if let Some(name) = line.strip_prefix("  /") {
            path = name.trim_end_matches(':');
        }
        let method = line.strip_prefix("    ").and_then(|key| key.strip_suffix(':'));
        if let Some(method) = METHODS.into_iter().find(|known| Some(*known) == method) {
            found.insert((format!("/{path}"), method));
        }
    }
    found
}

/// `.route("/path", get(…).post(…))`, and rows `("/end", get(…))` of the table of what every model has.
fn served(routes: &str) -> BTreeSet<Operation> {
    let mut found = BTreeSet::new();
    let mut ends = Vec::new();
    let mut of_models = Vec::new();
    for (_, line) in code(routes) {
        let line = line.trim();
        if let Some((path, methods)) = line.strip_prefix(".route(\"").and_then(|rest| rest.split_once('"')) {
            found.extend(methods_of(methods).map(|method| (path.to_owned(), method)));
        } else if let Some((path, _)) =
            line.strip_prefix(".route(&format!(\"").and_then(|rest| rest.split_once('"'))
        {
            of_models.push(path.replace("{{", "{").replace("}}", "}"));
        } else if let Some((end, methods)) = line.strip_prefix("(\"").and_then(|rest| rest.split_once('"')) {
            ends.extend(methods_of(methods).map(|method| (end, method)));
        }
    }
    for start in &of_models {
        let start = start.trim_end_matches("{path}");
        found.extend(ends.iter().map(|(end, method)| (format!("{start}{end}"), *method)));
    }
    // With a slash at its end it is the same path.
    found
        .retain(|(path, _)| !path.ends_with('/') && !ELSEWHERE.iter().any(|prefix| path.starts_with(prefix)));
    found
}

/// What a file serves that another nests at `prefix`.
fn under(prefix: &str, routes: &str) -> impl Iterator<Item = Operation> {
    served(routes)
        .into_iter()
        .map(move |(path, method)| (format!("{prefix}{}", path.replace("{*", "{")), method))
}

fn methods_of(code: &str) -> impl Iterator<Item = &'static str> {
    METHODS
        .into_iter()
        .filter(move |method| [" ", "."].iter().any(|before| code.contains(&format!("{before}{method}("))))
}

/// Lines of `type: object` whose block says nothing of what is in it.
fn bare_objects(document: &str) -> impl Iterator<Item = usize> {
    let lines: Vec<&str> = document.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let is_bare = move |at: usize| {
        let block = depth(lines[at]);
        let same = |line: &&str| line.trim().is_empty() || depth(line) >= block;
        let says = |line: &&str| {
            depth(line) == block
                && ["properties:", "additionalProperties:"]
                    .iter()
                    .any(|key| line.trim_start().starts_with(key))
        };
        let after = lines[at..].iter().copied().take_while(same);
        let before = lines[..at].iter().rev().copied().take_while(same);
        let describes = |line: &&str| says(line) && !line.ends_with(": true") && !line.ends_with(": false");
        !after.chain(before).any(|line| describes(&line))
    };
    let objects: Vec<usize> = document
        .lines()
        .enumerate()
        .filter(|(_, line)| line.trim() == "type: object")
        .map(|(at, _)| at)
        .collect();
    objects.into_iter().filter(move |at| is_bare(*at)).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVED: &str = "
        .route(\"/v2\", get(model::server))
        .route(\"/v2/\", get(model::server))
        .route(\"/metrics\", get(metrics))
        .route(\"/v2/logging\", get(a).post(b));
        (\"\", get(x)),
        (\"/infer\", post(x)),
            .route(&format!(\"/v2/models/{{model}}{path}\"), method.clone())
";
    const DOCUMENT_OF_IT: &str = "paths:
  /v2:
    get:
  /v2/logging:
    get:
    post:
  /v2/models/{model}:
    get:
  /v2/models/{model}/infer:
    post:
components:
  schemas:
    A:
      type: object
      required: [b]
      properties:
        b: { type: string }
";

    #[test]
    fn breaches() {
        let check = |served: &str, document: &str, count: usize| {
            let found = super::check(&Tree::of(&[(ROUTES, served), (DOCUMENT, document)])).unwrap();
            assert_eq!(found.len(), count, "{found:?}");
        };
        check(SERVED, DOCUMENT_OF_IT, 0);
        check(&format!("{SERVED}.route(\"/v2/more\", post(x))"), DOCUMENT_OF_IT, 1);
        check(&SERVED.replace("get(a).post(b)", "get(a)"), DOCUMENT_OF_IT, 1);
        check(SERVED, &DOCUMENT_OF_IT.replace("/v2/logging", "/v2/logs"), 4);
        check(SERVED, &DOCUMENT_OF_IT.replace("      properties:\n        b: { type: string }\n", ""), 1);
        check(
            SERVED,
            &DOCUMENT_OF_IT.replace("properties:\n        b: { type: string }", "additionalProperties: true"),
            1,
        );
        assert_eq!(super::check(&Tree::of(&[])).unwrap().len(), 1);
        let openai = (OPENAI, ".route(\"/models/{*id}\", get(models::one))");
        let found = super::check(&Tree::of(&[(ROUTES, SERVED), (DOCUMENT, DOCUMENT_OF_IT), openai])).unwrap();
        assert_eq!(found, ["docs/specs/openapi.yaml: get /v1/models/{id} is served and not described"]);
    }
}
