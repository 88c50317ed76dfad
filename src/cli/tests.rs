use super::*;
use crate::config::LogFormat;
use crate::model::DeviceChoice;
use app::api::{CohortSize, Dataset};
use clap::CommandFactory;
use std::path::PathBuf;

/// A settings file, variables and flags, as a person would give them.
struct Given<'a> {
    file: &'a str,
    variables: &'a [(&'a str, &'a str)],
    args: &'a str,
}

const NOTHING: Given = Given { file: "", variables: &[], args: "" };

fn parse(given: Given) -> Result<Command, Stop> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fedlearn.toml");
    std::fs::write(&file, given.file).unwrap();
    let args = std::iter::once("fedlearn").chain(given.args.split_whitespace()).map(OsString::from);
    let variables = given.variables.iter().map(|(name, value)| (name.into(), value.into()));
    layers::resolve(args, variables, &file).map(|cli| cli.command)
}

fn serve(given: Given) -> ServeSettings {
    match parse(given).unwrap() {
        Command::Serve(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

fn join(given: Given) -> JoinSettings {
    match parse(given).unwrap() {
        Command::Join(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

/// The problems, with the file named by its last component.
fn problems(given: Given) -> Vec<String> {
    match parse(given).unwrap_err() {
        Stop::Settings(problems) => {
            problems.iter().map(|p| p.find("fedlearn.toml").map_or(p.as_str(), |i| &p[i..]).to_owned()).collect()
        }
        Stop::Clap(error) => panic!("{error}"),
    }
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_has_help_and_it_is_no_error() {
    for args in ["--help", "serve --help", "join --help", "demo --help", "help serve", "--version"] {
        let Err(Stop::Clap(shown)) = parse(Given { args, ..NOTHING }) else { panic!("{args}") };
        assert!(!shown.use_stderr(), "{args}: {shown}");
    }
}

#[test]
fn help_lists_the_words_that_a_setting_takes() {
    let Err(Stop::Clap(shown)) = parse(Given { args: "serve --help", ..NOTHING }) else { panic!() };
    let words: Vec<_> = shown.to_string().split_whitespace().map(str::to_owned).collect();
    assert!(words.join(" ").contains("[possible values: cnn, resnet18, resnet34, resnet50]"), "{shown}");
}

#[test]
fn no_arguments_mean_serve_with_its_defaults() {
    let settings = serve(NOTHING);
    assert_eq!(settings.listen.to_string(), "127.0.0.1:3000");
    let run = settings.first_run.create().unwrap();
    let model = app::api::ModelSpec::for_dataset(app::api::Architecture::Cnn, Dataset::FashionMnist);
    assert_eq!((run.run.as_str(), run.model), ("default", model));
    assert_eq!(run.config, app::api::RunConfig::default());
}

#[test]
fn options_without_a_subcommand_are_those_of_serve() {
    assert_eq!(serve(Given { args: "--listen 0.0.0.0:80", ..NOTHING }).listen.to_string(), "0.0.0.0:80");
}

#[test]
fn a_variable_goes_before_the_file_and_a_flag_before_both() {
    let settings = serve(Given {
        file: "min_clients = 2\nbatch-size = 20\nlocal_epochs = 2",
        variables: &[("FEDLEARN_BATCH_SIZE", "30"), ("FEDLEARN_LOCAL_EPOCHS", "3")],
        args: "serve --local-epochs 4",
    });
    let run = settings.first_run;
    assert_eq!((run.min_clients, run.batch_size, run.local_epochs), (2, 30, 4));
}

#[test]
fn the_file_takes_lists_numbers_and_booleans() {
    let settings = serve(Given {
        file: "dataset_path = ['cifar10=/a', 'mnist=/b c']\ncohort = 0.5\naugment = true\nlearning_rate = 1",
        ..NOTHING
    });
    assert_eq!(settings.dataset_path(Dataset::Mnist), Some(PathBuf::from("/b c")));
    assert_eq!(settings.dataset_paths.len(), 2);
    let run = settings.first_run;
    assert_eq!((run.cohort, run.augment, run.learning_rate), (CohortSize::Fraction(0.5), true, 1.0));
}

#[test]
fn a_later_layer_replaces_a_list_as_a_whole() {
    let settings = serve(Given {
        file: "dataset_path = ['cifar10=/a', 'mnist=/b']",
        variables: &[("FEDLEARN_DATASET_PATH", "cifar100=/c,mnist=/d")],
        ..NOTHING
    });
    let datasets: Vec<_> = settings.dataset_paths.iter().map(|path| path.dataset).collect();
    assert_eq!(datasets, [Dataset::Cifar100, Dataset::Mnist]);
}

#[test]
fn a_base_path_and_trusted_proxies_are_paths_and_networks() {
    let settings = serve(Given {
        variables: &[("FEDLEARN_BASE_PATH", "/fl/b-1/")],
        args: "--trusted-proxy 127.0.0.1,10.0.0.0/8 --trusted-proxy ::1",
        ..NOTHING
    });
    assert_eq!((settings.base_path.as_str(), settings.trusted_proxies.len()), ("/fl/b-1", 3));
    let network = settings.trusted_proxies[1];
    assert!(network.contains([10, 255, 0, 1].into()) && !network.contains([11, 0, 0, 1].into()));
    assert_eq!(serve(Given { args: "--base-path /", ..NOTHING }).base_path.as_str(), "");
    for text in ["fl", "", "//", "/a//b", "/..", "/a b", "/a?b", "http://host/fl"] {
        let problem = problems(Given { variables: &[("FEDLEARN_BASE_PATH", text)], ..NOTHING });
        assert_eq!(problem, [format!("FEDLEARN_BASE_PATH: '{text}' is not a path such as /fl")]);
    }
    for text in ["10.0.0.0/33", "10.0.0.0/", "host", "10.0.0.0/-1", "::/129"] {
        let problem = problems(Given { variables: &[("FEDLEARN_TRUSTED_PROXY", text)], ..NOTHING });
        assert!(problem[0].contains("is neither an address nor a network such as 10.0.0.0/8"), "{problem:?}");
    }
}

#[test]
fn augment_stands_alone_or_takes_a_value() {
    for (args, expected) in [("serve --augment", true), ("serve --augment=false", false), ("serve", false)] {
        assert_eq!(serve(Given { args, ..NOTHING }).first_run.augment, expected, "{args}");
    }
}

#[test]
fn a_cohort_is_all_a_share_or_a_number() {
    for (text, expected) in [
        ("all", CohortSize::Fraction(1.0)),
        ("1.0", CohortSize::Fraction(1.0)),
        ("0.25", CohortSize::Fraction(0.25)),
        ("10", CohortSize::Size(10)),
    ] {
        assert_eq!(serve(Given { args: &format!("--cohort {text}"), ..NOTHING }).first_run.cohort, expected);
    }
}

#[test]
fn an_unknown_key_of_the_file_is_refused_by_name() {
    assert_eq!(
        problems(Given { file: "listne = 'x'", ..NOTHING }),
        [
            "fedlearn.toml: listne: there is no such setting; `fedlearn help serve` and `fedlearn help join` list the settings"
        ]
    );
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    let variables = [("FEDLEARN_LISTNE", "x"), ("FEDLEARN_CACHE", "/c"), ("LEPTOS_OUTPUT_NAME", "fedlearn")];
    let found = problems(Given { variables: &variables, ..NOTHING });
    assert_eq!(
        found,
        ["FEDLEARN_LISTNE: there is no such setting; `fedlearn help serve` and `fedlearn help join` list the settings"]
    );
}

#[test]
fn settings_of_another_subcommand_do_no_harm() {
    let settings = join(Given {
        file: "min_clients = 3",
        variables: &[("FEDLEARN_DATA_DIR", "/d"), ("FEDLEARN_RUN", "trial")],
        args: "join http://h:1/",
    });
    assert_eq!((settings.url.as_str(), settings.run.as_str()), ("http://h:1", "trial"));
}

#[test]
fn all_problems_of_all_sources_are_reported_at_once() {
    let found = problems(Given {
        file: "listen = 'here'\nwrong = 1\ndeadline_s = [1, 2]\nlocal_epochs = 0",
        variables: &[("FEDLEARN_ENCODING", "f8")],
        args: "serve --device tpu --cohort half --dataset none --channels 1",
    });
    assert_eq!(
        found,
        [
            "fedlearn.toml: wrong: there is no such setting; `fedlearn help serve` and `fedlearn help join` list the settings",
            "fedlearn.toml: deadline_s: it takes one value, not 2",
            "fedlearn.toml: listen: 'here' is not an IP address with a port: 127.0.0.1:3000 is reached from this machine alone, \
             0.0.0.0:3000 from others, too",
            "FEDLEARN_ENCODING: invalid value 'f8' for '--encoding <ENCODING>' [possible values: f32, bf16, bf16-delta, q8, q4, topk]",
            "--cohort: 'half' is neither all, nor a share such as 0.5, nor a whole number of clients",
            "--device: 'tpu' is none of auto, cpu, cuda, cuda:0 to cuda:255",
            "classes is missing: without a dataset, give it with --classes",
            "local_epochs is 0, allowed are 1 to 1000",
        ]
    );
}

#[test]
fn an_unknown_flag_is_reported_with_the_other_problems() {
    let found = problems(Given { file: "wrong = 1", args: "serve --lisen x", ..NOTHING });
    assert_eq!(
        found,
        [
            "unexpected argument '--lisen' found",
            "fedlearn.toml: wrong: there is no such setting; `fedlearn help serve` and `fedlearn help join` list the settings"
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_by_line_without_showing_it() {
    let found = problems(Given { file: "run = 'default'\njoin_secret = hunter2", ..NOTHING });
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("fedlearn.toml, line 2: ") && !found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn a_named_file_must_exist() {
    let found = problems(Given { variables: &[("FEDLEARN_CONFIG", "/nowhere.toml")], ..NOTHING });
    assert_eq!(
        found,
        ["cannot read /nowhere.toml: No such file or directory (os error 2); name another settings file with --config"]
    );
}

#[test]
fn a_key_written_both_ways_is_refused() {
    let found = problems(Given { file: "data-dir = 'a'\ndata_dir = 'b'", ..NOTHING });
    assert_eq!(found, ["fedlearn.toml: data_dir: it is set twice, with '-' and with '_'"]);
}

#[test]
fn channels_that_contradict_the_dataset_are_refused() {
    let found = problems(Given { args: "--channels 3", ..NOTHING });
    assert_eq!(found, ["channels is 3, but the images of dataset fashion-mnist have 1"]);
}

#[test]
fn a_dataset_named_twice_is_refused() {
    let found = problems(Given { args: "--dataset-path mnist=/a --dataset-path mnist=/b", ..NOTHING });
    assert_eq!(found, ["dataset-path names mnist twice"]);
}

#[test]
fn a_join_takes_its_part_of_the_data() {
    let settings = join(Given {
        args: "join https://h --partition 2/3 --split shards:2 --seed 7 --device cuda:1 --log-format json --name Eva",
        ..NOTHING
    });
    assert_eq!(settings.data.partition.unwrap().to_string(), "2/3");
    assert_eq!(settings.data.split.to_string(), "shards:2");
    assert_eq!((settings.data.seed, settings.device), (7, DeviceChoice::Cuda(1)));
    assert_eq!((settings.common.log_format, settings.client_name().as_str()), (LogFormat::Json, "Eva"));
}

#[test]
fn a_client_has_a_name_by_default() {
    let name = join(Given { args: "join http://h", ..NOTHING }).client_name();
    assert!(!name.is_empty());
}

#[test]
fn a_split_without_a_part_is_refused() {
    let found = problems(Given { args: "join http://h --split shards:2", ..NOTHING });
    assert_eq!(found, ["split is shards:2, but partition does not say which part to take"]);
}

#[test]
fn a_join_without_address_is_a_usage_error() {
    let Err(Stop::Clap(error)) = parse(Given { args: "join", ..NOTHING }) else { panic!() };
    assert!(error.to_string().contains("<URL>"), "{error}");
}

#[test]
fn an_address_without_http_is_refused() {
    let found = problems(Given { args: "join localhost:3000", ..NOTHING });
    assert_eq!(found, ["URL: 'localhost:3000' is not an address such as http://127.0.0.1:3000"]);
}

#[test]
fn secrets_are_not_shown() {
    let given = Given { variables: &[("FEDLEARN_JOIN_SECRET", "hunter2")], ..NOTHING };
    let settings = serve(given);
    assert_eq!(settings.join_secret.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_demo_has_its_own_few_settings() {
    let Command::Demo(settings) = parse(Given { args: "demo --clients 5", ..NOTHING }).unwrap() else { panic!() };
    assert_eq!((settings.clients, settings.rounds), (5, 10));
}
