use super::*;
use crate::config::LogFormat;
use crate::model::DeviceChoice;
use app::api::{CohortSize, Dataset, Kind};
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
    sources::resolve(args, variables, &file).map(|cli| cli.command)
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
        file: "max-runs = 2\nbody_timeout_s = 20\nhead_timeout_s = 2\nmin_clients = 2\ndeadline-s = 20\ntrain.local_epochs = 2",
        variables: &[
            ("FEDLEARN_BODY_TIMEOUT_S", "30"),
            ("FEDLEARN_HEAD_TIMEOUT_S", "3"),
            ("FEDLEARN_DEADLINE_S", "30"),
            ("FEDLEARN_TRAIN_LOCAL_EPOCHS", "3"),
        ],
        args: "serve --head-timeout-s 4 --set train.local_epochs=4",
    });
    assert_eq!((settings.max_runs, settings.body_timeout_s, settings.head_timeout_s), (2, 30, 4));
    let run = settings.first_run.create().unwrap().config;
    assert_eq!((run.min_clients, run.deadline_s, run.train.local_epochs), (2, 30, 4));
}

#[test]
fn the_file_takes_lists_numbers_and_booleans() {
    let settings = serve(Given {
        file: "dataset_path = ['cifar10=/a', 'mnist=/b c']\ncohort.fraction = 0.5\nmax_update_norm = 'none'\n\
               [train]\naugment = true\nlearning-rate = 1",
        ..NOTHING
    });
    assert_eq!(settings.dataset_path(Dataset::Mnist), Some(PathBuf::from("/b c")));
    assert_eq!(settings.dataset_paths.len(), 2);
    let run = settings.first_run.create().unwrap().config;
    assert_eq!((run.cohort, run.max_update_norm), (CohortSize::Fraction(0.5), None));
    assert_eq!((run.train.augment, run.train.learning_rate), (true, 1.0));
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
fn every_setting_of_a_run_can_be_set_by_flag_variable_and_file() {
    let default = app::api::RunConfig::default();
    for setting in app::api::RunConfig::settings() {
        // Given a value that is not the default,
        let value = match setting.kind {
            Kind::Switch => "true".to_owned(),
            Kind::Word(words) => {
                words.iter().rfind(|word| default.get(&setting.path) != Some((**word).into())).unwrap().to_string()
            }
            Kind::Limit => "none".to_owned(),
            Kind::Whole | Kind::Number => setting.bounds.maximum.unwrap_or(7.0).to_string(),
        };
        let value = if setting.path == "cohort.fraction" { "0.5".to_owned() } else { value };
        let mut expected = default.clone();
        expected.set(&setting.path, &app::api::parse_value(&value)).unwrap();
        assert_ne!(expected, default, "{}", setting.path);
        // when it is given in each way, then the run has it.
        let assignment = format!("{}={value}", setting.path);
        let variable = sources::variable(&setting.path);
        for given in [
            Given { args: &format!("serve --set {assignment}"), ..NOTHING },
            Given { variables: &[(&variable, &value)], ..NOTHING },
            Given { file: &format!("{} = '{value}'", setting.path), ..NOTHING },
        ] {
            assert_eq!(serve(given).first_run.create().unwrap().config, expected, "{assignment}");
        }
    }
}

#[test]
fn a_later_source_replaces_a_share_of_clients_by_a_number() {
    let given = Given {
        file: "cohort.fraction = 0.5",
        variables: &[("FEDLEARN_COHORT_SIZE", "10")],
        args: "serve --set cohort.size=11",
    };
    assert_eq!(serve(given).first_run.create().unwrap().config.cohort, CohortSize::Size(11));
}

#[test]
fn help_lists_the_settings_of_a_run() {
    let Err(Stop::Clap(shown)) = parse(Given { args: "help serve", ..NOTHING }) else { panic!() };
    let shown = shown.to_string();
    for setting in app::api::RunConfig::settings() {
        assert!(shown.lines().any(|line| line.trim_start().starts_with(&format!("{} ", setting.path))), "{shown}");
    }
    assert!(shown.contains("docs/configuration.md"), "{shown}");
}

#[test]
fn help_shows_defaults_and_no_value_of_the_environment() {
    let given = Given { variables: &[("FEDLEARN_JOIN_SECRET", "hunter2")], args: "serve --help", ..NOTHING };
    let Err(Stop::Clap(shown)) = parse(given) else { panic!() };
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
}

#[test]
fn settings_of_a_run_that_exists_with_other_values_have_no_effect() {
    // Given a run that exists, and settings of all sources,
    let settings = serve(Given {
        file: "train.learning_rate = 0.01\nmode = 'sync'",
        variables: &[("FEDLEARN_ARCHITECTURE", "resnet18")],
        args: "serve --min-clients 3 --set cohort.size=4 --set max_update_norm=none",
    });
    let existing = serve(Given { args: "serve --min-clients 2", ..NOTHING }).first_run.create().unwrap();
    // when they are compared,
    let found = settings.first_run.without_effect(Some((Some(&existing.model), existing.dataset, &existing.config)));
    // then each setting with another value is named with both values.
    let found: Vec<_> =
        found.iter().map(|line| line.find("fedlearn.toml").map_or(line.as_str(), |i| &line[i..])).collect();
    assert_eq!(
        found,
        [
            "fedlearn.toml: train.learning_rate 0.01 has no effect: run 'default' already exists with train.learning_rate 0.05; change it on the dashboard or by PATCH",
            "FEDLEARN_ARCHITECTURE resnet18 has no effect: run 'default' already exists with architecture cnn; create another run for it",
            "--min-clients 3 has no effect: run 'default' already exists with min_clients 2; change it on the dashboard or by PATCH",
            "--set cohort.size 4 has no effect: run 'default' already exists with cohort.size none; change it on the dashboard or by PATCH",
            "--set max_update_norm none has no effect: run 'default' already exists with max_update_norm 1000000; change it on the dashboard or by PATCH",
        ]
    );
}

#[test]
fn an_unknown_key_of_the_file_is_rejected_by_name() {
    assert_eq!(
        problems(Given { file: "listne = 'x'", ..NOTHING }),
        ["fedlearn.toml: listne: unknown setting; `fedlearn help serve` and `fedlearn help join` list the settings"]
    );
}

#[test]
fn an_unknown_variable_is_rejected_by_name() {
    let variables = [("FEDLEARN_LISTNE", "x"), ("FEDLEARN_CACHE", "/c"), ("LEPTOS_OUTPUT_NAME", "fedlearn")];
    let found = problems(Given { variables: &variables, ..NOTHING });
    assert_eq!(
        found,
        ["FEDLEARN_LISTNE: unknown setting; `fedlearn help serve` and `fedlearn help join` list the settings"]
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
        file: "listen = 'here'\ndata_dir = ['a', 'b']\ndeadline_s = [1, 2]\n[train]\nlocal_epochs = 0\nepochs = 1",
        variables: &[("FEDLEARN_ENCODING", "f8"), ("FEDLEARN_DEVICE", "tpu")],
        args: "serve --dataset none --channels 5000 --min-clients 0 --set cohort.fraction=half",
    });
    assert_eq!(
        found,
        [
            "fedlearn.toml: train.epochs: unknown setting; `fedlearn help serve` and `fedlearn help join` list the settings",
            "fedlearn.toml: data_dir: must be one value, got 2",
            "fedlearn.toml: listen: 'here' is not an IP address with a port: 127.0.0.1:3000 accepts connections from this \
             machine, 0.0.0.0:3000 from others as well",
            "FEDLEARN_DEVICE: 'tpu' is none of auto, cpu, cuda, cuda:0 to cuda:255",
            "--classes is required without a dataset",
            "--channels must be between 1 and 4096, got 5000",
            "fedlearn.toml: deadline_s must be a whole number, got [1,2]",
            "fedlearn.toml: train.local_epochs must be between 1 and 1000, got 0",
            r#"FEDLEARN_ENCODING must be one of f32, bf16, bf16-delta, q8, q4, topk, got "f8""#,
            "--min-clients must be between 1 and 1000000, got 0",
            r#"--set cohort.fraction must be a number, got "half""#,
        ]
    );
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let Err(Stop::Clap(error)) = parse(Given { args: "serve --lisen x", ..NOTHING }) else { panic!() };
    assert!(error.to_string().contains("'--lisen'"), "{error}");
}

#[test]
fn an_unknown_setting_of_a_run_is_a_usage_error() {
    let Err(Stop::Clap(error)) = parse(Given { args: "serve --set train.epochs=3", ..NOTHING }) else { panic!() };
    assert!(error.to_string().contains("'train.epochs' is not a setting of a run"), "{error}");
}

#[test]
fn a_file_that_is_not_toml_is_rejected_by_line_without_showing_it() {
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
fn a_key_written_both_ways_is_rejected() {
    let found = problems(Given { file: "data-dir = 'a'\ndata_dir = 'b'", ..NOTHING });
    assert_eq!(found, ["fedlearn.toml: data_dir: set twice, with '-' and with '_'"]);
}

#[test]
fn channels_that_contradict_the_dataset_are_rejected() {
    let found = problems(Given { args: "--channels 3", ..NOTHING });
    assert_eq!(found, ["--channels must be 1, as in the images of dataset fashion-mnist, got 3"]);
}

#[test]
fn a_dataset_named_twice_is_rejected() {
    let found = problems(Given { args: "--dataset-path mnist=/a --dataset-path mnist=/b", ..NOTHING });
    assert_eq!(found, ["dataset_path must name each dataset once, got mnist twice"]);
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
fn a_split_without_a_part_is_rejected() {
    let found = problems(Given { args: "join http://h --split shards:2", ..NOTHING });
    assert_eq!(found, ["split shards:2 requires a part: set it with --partition"]);
}

#[test]
fn a_join_without_address_is_a_usage_error() {
    let Err(Stop::Clap(error)) = parse(Given { args: "join", ..NOTHING }) else { panic!() };
    assert!(error.to_string().contains("<URL>"), "{error}");
}

#[test]
fn an_address_without_http_is_rejected() {
    let Err(Stop::Clap(error)) = parse(Given { args: "join localhost:3000", ..NOTHING }) else { panic!() };
    assert!(error.to_string().contains("'localhost:3000' is not an address such as http://127.0.0.1:3000"), "{error}");
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
