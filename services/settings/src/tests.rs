use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_str(text, env.collect::<Vec<_>>().into_iter())
}

fn message(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).unwrap_err().to_string()
}

#[test]
fn nothing_written_is_a_whole_fleet_on_loopback() {
    let settings = load("", &[]).unwrap().settings;
    for address in [
        settings.edge.listen,
        settings.edge.admin_listen,
        settings.edge.capnp_listen,
        settings.app.listen,
    ] {
        assert!(address.ip().is_loopback());
    }
    assert_eq!((settings.fleet.apps, settings.fleet.edges), (3, 1));
    assert_eq!(settings.edge.http.body_limit, 10 << 20);
    let names: Vec<_> = settings.plugins.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["time", "text", "json", "hash", "sqlite", "files"]);
}

#[test]
fn the_environment_is_laid_over_the_file() {
    let file = "[app.http]\nbody_limit = \"2MiB\"\n";
    let loaded = load(
        file,
        &[
            ("SWEETMCP__APP__HTTP__BODY_LIMIT", "1MiB"),
            ("SWEETMCP__EDGE__RATE__BURST", "7"),
            ("OTHER", "x"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.settings.app.http.body_limit, 1 << 20);
    assert_eq!(loaded.settings.edge.rate.burst, 7);
    assert_eq!(
        loaded.origins["edge.rate.burst"].to_string(),
        "environment variable SWEETMCP__EDGE__RATE__BURST"
    );
    let from_file = load(file, &[]).unwrap();
    assert_eq!(from_file.settings.app.http.body_limit, 2 << 20);
    assert_eq!(
        from_file.origins["app.http.body_limit"].to_string(),
        "sweetmcp.toml:2:14"
    );
}

#[test]
fn a_variable_that_fits_nothing_says_the_nearest_name() {
    insta::assert_snapshot!(message("", &[("SWEETMCP__APP__HTTP__BODY_LIMT", "1MiB")]), @r"
    the configuration has 1 problem

    environment variable SWEETMCP__APP__HTTP__BODY_LIMT: app.http.body_limt
      found:   an unknown name
      allowed: the name of a setting; the nearest is SWEETMCP__APP__HTTP__BODY_LIMIT (app.http.body_limit)
      write:   SWEETMCP__APP__HTTP__BODY_LIMIT=…
    ");
    insta::assert_snapshot!(message("", &[("SWEETMCP__APP__HTTP__BODY_LIMIT", "10")]), @r#"
    the configuration has 1 problem

    environment variable SWEETMCP__APP__HTTP__BODY_LIMIT: app.http.body_limit
      found:   "10"
      allowed: a size from 1KiB to 1GiB, with a unit (B, KiB, MiB, GiB, or kB, MB, GB)
    "#);
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let file = "[edge]\nlisten = \"localhost:80\"\nlisen = 1\n\n[edge.rate]\nper_second = 0\n\n[[plugin]]\nname = \"Git Hub\"\nkind = \"stdoi\"\n";
    insta::assert_snapshot!(message(file, &[]), @r#"
    the configuration has 5 problems

    sweetmcp.toml:2:10: edge.listen
      found:   "localhost:80"
      allowed: an IP address and a port, such as "127.0.0.1:8700"; port 0 takes any free one
      write:   listen = "127.0.0.1:80"

    sweetmcp.toml:3:9: edge.lisen
      found:   an unknown key
      allowed: a key that there is; the nearest is edge.listen
      write:   edge.listen

    sweetmcp.toml:6:14: edge.rate.per_second
      found:   0
      allowed: a whole number from 1 to 1000000

    sweetmcp.toml:9:8: plugin.Git Hub.name
      found:   "Git Hub"
      allowed: 1 to 32 lower-case letters, digits and hyphens
      write:   name = "git-hub"

    sweetmcp.toml:10:8: plugin.Git Hub.kind
      found:   "stdoi"
      allowed: one of "stdio", "http", "openapi", "wasm", "builtin"
      write:   kind = "stdio"
    "#);
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    let text = message("[edge\nlisten", &[]);
    assert!(text.contains("sweetmcp.toml:1:"), "{text}");
}

#[test]
fn plugins_need_what_their_kind_needs() {
    for (file, words) in [
        (
            "[[plugin]]\nkind = \"stdio\"\ncommand = \"x\"\n",
            "plugin[0].name",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\n",
            "plugin.a.command",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"builtin\"\n",
            "plugin.a.set",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"builtin\"\nset = \"time\"\n[[plugin]]\nname = \"a\"\nkind = \"builtin\"\nset = \"text\"\n",
            "another plugin has",
        ),
        ("[plugin]\nname = \"a\"\n", "begun by [[plugin]]"),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"wasm\"\n",
            "plugin.a.module",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\n",
            "plugin.a.url",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"openapi\"\n",
            "plugin.a.document",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"openapi\"\n",
            "plugin.a.url",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"openapi\"\ndocument = \"x\"\nurl = \"ftp://x/longer\"\n",
            "an http or https URL",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x\"\nact_as = \"stored\"\n",
            "plugin.a.grants_file",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x\"\nact_as = \"exchange\"\n",
            "plugin.a.token_url",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x\"\ntoken_url = \"http://y/token\"\n",
            "plugin.a.client_id",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x\"\nact_as = \"exchange\"\n\
             token_url = \"http://y/token\"\nclient_id = \"us\"\n",
            "plugin.a.subject_key_file",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\ninstances_min = 3\ninstances_max = 2\n",
            "plugin.a.instances_max",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\nread_paths = [\"/srv\"]\n",
            "plugin.a.sandbox",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\nsigned_files = [\"y\"]\n",
            "plugin.a.signed_by",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x\"\nsigned_by = \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"\n",
            "stdio and wasm",
        ),
        (
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\nnames = { \"read file\" = \"read file\" }\n",
            "for read file 1 to 64 letters",
        ),
    ] {
        assert!(
            message(file, &[]).contains(words),
            "{file}: {}",
            message(file, &[])
        );
    }
    let both = load(
        "[app]\nbuiltins = false\n[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\n",
        &[],
    )
    .unwrap();
    assert_eq!(both.settings.plugins.len(), 1);
    assert_eq!(both.settings.plugins[0].prefix, "a_");
}

#[test]
fn secrets_count_in_digests_and_show_nowhere() {
    let with = |secret: &str| {
        let file = format!(
            "[[plugin]]\nname = \"a\"\nkind = \"stdio\"\ncommand = \"x\"\nenv = {{ TOKEN = \"{secret}\" }}\n\
             [[plugin]]\nname = \"b\"\nkind = \"openapi\"\ndocument = \"x\"\nurl = \"http://x\"\nheaders = {{ X-Api-Key = \"{secret}\" }}\n"
        );
        load(&file, &[]).unwrap().settings
    };
    let (one, two) = (with("hunter2"), with("hunter3"));
    assert_ne!(one.app_digest(), two.app_digest());
    assert_eq!(one.edge_digest(), two.edge_digest());
    let diff = diff(&one, &two);
    assert_eq!(diff.len(), 2);
    let everything = format!("{one:?} {:?} {diff:?}", one.shown());
    assert!(!everything.contains("hunter"), "{everything}");
    assert!(diff[0].key == "plugin.a.env.TOKEN" && diff[1].key == "plugin.b.headers.X-Api-Key");
}

#[test]
fn an_edit_changes_the_digest_of_its_reader_alone() {
    let base = load("", &[]).unwrap().settings;
    let edge = load("[edge.rate]\nburst = 9\n", &[]).unwrap().settings;
    let app = load("[app.http]\nbody_limit = \"1MiB\"\n", &[])
        .unwrap()
        .settings;
    assert!(base.edge_digest() != edge.edge_digest() && base.app_digest() == edge.app_digest());
    assert!(base.edge_digest() == app.edge_digest() && base.app_digest() != app.app_digest());
    let both = load("[edge.session]\nttl = \"1h\"\n", &[])
        .unwrap()
        .settings;
    assert!(base.edge_digest() != both.edge_digest() && base.app_digest() != both.app_digest());
}

#[test]
fn every_default_fits_its_own_key_and_has_a_meaning() {
    for row in keys::rows() {
        assert!(!row.meaning.is_empty(), "{}", row.key);
    }
    let schema = schema_json();
    assert_eq!(
        schema["properties"]["edge"]["properties"]["http"]["properties"]["body_limit"]["default"],
        "10MiB"
    );
    assert_eq!(schema["properties"]["plugin"]["type"], "array");
    assert!(reference_markdown().contains("| `body_limit` | size | `\"10MiB\"` |"));
    assert!(
        explain("edge.rate.burst")
            .unwrap()
            .contains("default: `400`")
    );
    assert_eq!(explain("edge.rate.brust").unwrap_err(), "edge.rate.burst");
}

#[test]
fn the_examples_load() {
    for file in ["minimal.toml", "full.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(file);
        Settings::load(Some(&path), std::iter::empty()).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Settings::load(Some(&folder.path().join("none.toml")), std::iter::empty());
    assert!(missing.unwrap_err().to_string().contains("none.toml"));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(Settings::load(Some(&binary), std::iter::empty()).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}", name in "[A-Z_]{0,20}", value in ".{0,20}") {
        let _ = load(&text, &[(&format!("SWEETMCP__{name}"), &value)]);
    }

    #[test]
    fn the_order_of_keys_does_not_change_the_digest(burst in 1_u32..1000, second in 1_u32..1000) {
        let one = load(&format!("[edge.rate]\nburst = {burst}\nper_second = {second}\n"), &[]).unwrap();
        let two = load(&format!("[edge.rate]\nper_second = {second}\nburst = {burst}\n"), &[]).unwrap();
        prop_assert_eq!(one.digest, two.digest);
    }

    #[test]
    fn the_last_word_has_the_environment(file in 1_u32..1000, env in 1_u32..1000) {
        let loaded = load(&format!("[edge.rate]\nburst = {file}\n"), &[("SWEETMCP__EDGE__RATE__BURST", &env.to_string())]).unwrap();
        prop_assert_eq!(loaded.settings.edge.rate.burst, env);
        let origins: BTreeMap<_, _> = loaded.origins;
        prop_assert_eq!(origins.len(), 1);
    }
}
