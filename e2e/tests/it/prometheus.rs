//! A real Prometheus with the files of `deploy/observe`, asked what the dashboard asks.

use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::{PATIENCE, School, Stage, eventually, free_address};
use serde_json::Value;
use tokio::process::{Child, Command};

const CONFIGURATION: &str = include_str!("../../../deploy/observe/prometheus.yml");
const RULES: &str = include_str!("../../../deploy/observe/rules.yml");
const DASHBOARD: &str = include_str!("../../../deploy/observe/grafana/dashboards/rollcall.json");

/// What shows nothing while nothing is wrong.
const SHOWS_FAILURES_ONLY: &str = "Bitrix24: failed calls";

struct Prometheus {
    url: String,
    _child: Child,
}

impl Prometheus {
    /// Starts one that has everything but the addresses and the pace from our files.
    async fn start(program: &str, school: &School) -> anyhow::Result<Prometheus> {
        let folder = school.state_dir().join("prometheus");
        tokio::fs::create_dir_all(&folder).await?;
        let rules = folder.join("rules.yml");
        tokio::fs::write(&rules, RULES).await?;
        let mut targets = Vec::new();
        for stage in Stage::ALL {
            targets.push(school.observed_at(stage)?.to_string());
        }
        let of_compose = CONFIGURATION.find("    dns_sd_configs:").context("the addresses of compose")?;
        let configuration = CONFIGURATION[..of_compose]
            .replace("15s", "1s")
            .replace("/etc/prometheus/rules.yml", &rules.display().to_string());
        ensure!(
            configuration.contains(&*rules.to_string_lossy()),
            "the rules are not named: {configuration}"
        );
        let configuration = format!("{configuration}    static_configs: [{{ targets: {targets:?} }}]\n");
        let file = folder.join("prometheus.yml");
        tokio::fs::write(&file, configuration).await?;
        let address = free_address()?;
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Prometheus { url: format!("http://{address}/api/v1"), _child: child })
    }

    /// Returns what it answers, or nothing while it starts.
    async fn ask(&self, what: &str, query: &[(&str, &str)]) -> anyhow::Result<Option<Value>> {
        let url = reqwest::Url::parse_with_params(&format!("{}/{what}", self.url), query)?;
        let Ok(response) = reqwest::get(url).await else { return Ok(None) };
        if response.status() == 503 {
            return Ok(None);
        }
        let answer: Value = response.json().await?;
        ensure!(answer["status"] == "success", "{what} {query:?}: {answer}");
        Ok(Some(answer["data"].clone()))
    }
}

/// Returns the title of each panel with each expression that it shows.
fn shown() -> anyhow::Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut shown = Vec::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        for target in panel["targets"].as_array().context("targets")? {
            let [title, expression] = [&panel["title"], &target["expr"]].map(Value::as_str);
            shown.push((title.context("a title")?.to_owned(), expression.context("expr")?.to_owned()));
        }
    }
    Ok(shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_draws_the_dashboard_and_works_the_rules_out() -> anyhow::Result<()> {
    let program = std::env::var("PROMETHEUS").context("PROMETHEUS names no prometheus; run ./test")?;
    if program.is_empty() {
        eprintln!("NOT TESTED: what Prometheus makes of the dashboard. There is no prometheus here.");
        return Ok(());
    }
    let school = School::builder().demo(30, 40, 9).observed().start().await?;
    let prometheus = Prometheus::start(&program, &school).await?;
    school.caught_up().await?;

    let shown = shown()?;
    ensure!(shown.len() > 20, "{shown:?}");
    for (title, expression) in &shown {
        let drawn = || async {
            let data = prometheus.ask("query", &[("query", expression)]).await?;
            let series = data.as_ref().and_then(|data| data["result"].as_array());
            Ok(series.filter(|series| title == SHOWS_FAILURES_ONLY || !series.is_empty()).map(|_| ()))
        };
        eventually(&format!("{title}: {expression}"), PATIENCE, drawn).await?;
    }

    let worked_out = || async {
        let Some(data) = prometheus.ask("rules", &[]).await? else { return Ok(None) };
        let groups = data["groups"].as_array().context("groups")?;
        let rules: Vec<Value> =
            groups.iter().flat_map(|group| group["rules"].as_array()).flatten().cloned().collect();
        ensure!(rules.len() >= 19, "{} rules", rules.len());
        Ok(rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules))
    };
    for rule in eventually("every rule", PATIENCE, worked_out).await? {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
    Ok(())
}
