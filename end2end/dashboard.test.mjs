// What an operator does and sees, in a real browser, with real training behind it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { World, hydrated, points, row, state, until } from "./harness.mjs";

let world;
let page;

before(async () => {
  world = await World.start(["--min-clients", "1"]);
  for (const part of [1, 2, 3]) world.join(`client-${part}`, 2000, `${part}/3`);
  await until(async () => (await world.snapshot()).clients.length === 3, "three clients have joined");
  page = await world.operator();
});

after(async () => world.end());

afterEach(() => {
  const problems = page.problems.splice(0);
  assert.deepEqual(problems, [], "the browser's console stays empty");
});

function safetensors(tensors, data) {
  const header = Buffer.from(JSON.stringify(tensors));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([size, header, data]);
}

// The browser rightly tells of a request that was refused, as the test wanted it.
function forgive(status) {
  page.problems = page.problems.filter((text) => !text.includes(`a status of ${status} `));
}

test("a log-in by address leaves no token in it and brings the controls", async () => {
  assert.equal(page.url(), `${world.url}/`);
  await page.getByTestId("autorun-start").waitFor();
  const [cookie] = await page.context().cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite], [true, "Strict"]);
});

test("an address with the token logs in where the page for it is open already", async () => {
  const page = await world.page();
  await page.goto(`${world.url}/login`);
  await hydrated(page);
  await page.evaluate((token) => { location.hash = token; }, world.token);
  await page.waitForURL(`${world.url}/`);
  await hydrated(page);
  assert.deepEqual(page.problems, []);
  await page.context().close();
});

test("a visitor sees everything and can change nothing", async () => {
  const visitor = await world.page();
  await visitor.goto(world.url);
  await hydrated(visitor);
  assert.equal(await visitor.getByTestId("client-row").count(), 3);
  assert.equal(await visitor.getByTestId("kick").count(), 0);
  assert.equal(await visitor.getByTestId("autorun-start").count(), 0);
  assert.deepEqual(visitor.problems, []);
  await visitor.context().close();
});

test("the chart grows live while rounds run", async () => {
  const before = await points(page);
  await page.getByTestId("autorun-rounds").fill("3");
  await page.getByTestId("autorun-start").click();
  await until(async () => (await points(page)) >= before + 1, "the first point appears");
  await until(async () => (await points(page)) >= before + 3, "the third point appears, without a reload");
  assert.equal(await page.getByTestId("badge").getAttribute("data-link"), "live");
  const { version, rounds } = await world.snapshot();
  assert.equal(version, 3);
  const shown = await page.getByTestId("accuracy").innerText();
  assert.ok(shown.includes((rounds.at(-1).test_accuracy * 100).toFixed(1)), `${shown} is the last round's accuracy`);
});

test("hovering over the chart tells the round", async () => {
  const box = await page.getByTestId("chart-accuracy").boundingBox();
  await page.mouse.move(box.x + box.width * 0.9, box.y + box.height * 0.5);
  await until(async () => /round\s*\d/i.test(await page.getByTestId("chart-readout").innerText()), "the round is told");
});

test("the configuration is edited on the page, and what is refused is told at its field", async () => {
  const dialog = page.getByTestId("config-dialog");
  const [deadline, epochs] = [dialog.getByLabel("Deadline"), dialog.getByLabel("Local epochs")];
  const hasFocus = (part) => part.evaluate((element) => element === document.activeElement);
  await page.getByTestId("config-edit").click();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.ok(await hasFocus(page.getByTestId("config-edit")), "the focus goes back to the button");

  await page.getByTestId("config-edit").click();
  await deadline.fill("0");
  await epochs.fill("2");
  await page.getByTestId("config-save").click();
  await until(async () => /deadline_s must be between 1 and 604800, got 0/.test(await page.getByTestId("config-alert").innerText()), "the refusal is told");
  assert.equal(await deadline.getAttribute("aria-invalid"), "true");
  assert.equal(await epochs.getAttribute("aria-invalid"), "false");
  assert.ok(await hasFocus(deadline), "the focus goes to what was refused");
  assert.equal((await world.snapshot()).config_version, 1);
  forgive(422);

  await deadline.fill("90");
  await deadline.press("Enter");
  await dialog.waitFor({ state: "hidden" });
  await until(async () => (await page.getByTestId("config-version").innerText()) === "version 2", "version 2 is shown");
  const { config, config_version } = await world.snapshot();
  assert.deepEqual([config_version, config.deadline_s, config.train.local_epochs], [2, 90, 2]);

  const before = await points(page);
  await page.getByTestId("run-round").click();
  await until(async () => (await points(page)) === before + 1, "a round ends");
  await page.getByText("config v2").waitFor();
});

test("a change made elsewhere meanwhile is not overwritten unseen, and what was typed is kept", async () => {
  const dialog = page.getByTestId("config-dialog");
  await page.getByTestId("config-edit").click();
  await dialog.getByLabel("Local epochs").fill("1");
  // Between the click and the coordinator's answer, where nobody can see it in time.
  const elsewhere = async (route) => {
    await world.configure({ deadline_s: 120 });
    await route.continue();
  };
  await page.route("**/api/v1/runs/default", elsewhere, { times: 1 });
  await page.getByTestId("config-save").click();
  const told = () => page.getByTestId("config-alert").innerText();
  await until(async () => /changed elsewhere[^]*Deadline: now 120$/.test(await told()), "it is told, and what it changed");
  forgive(412);
  await until(async () => (await dialog.getByLabel("Deadline").inputValue()) === "120", "the new deadline is shown");
  assert.equal(await dialog.getByLabel("Local epochs").inputValue(), "1");
  await page.getByTestId("config-save").click();
  await dialog.waitFor({ state: "hidden" });
  const { config, config_version } = await world.snapshot();
  assert.deepEqual([config_version, config.deadline_s, config.train.local_epochs], [4, 120, 1]);
});

test("a client is kicked from the page, the round goes on without it, and it is admitted again", async () => {
  await page.getByTestId("autorun-rounds").fill("50");
  await page.getByTestId("autorun-start").click();
  await until(async () => (await state(page, "client-2")) === "training", "client-2 trains");
  await row(page, "client-2").getByTestId("kick").click();
  await page.getByTestId("confirm-kick").click();
  await until(async () => (await state(page, "client-2")) === "kicked", "client-2 is shown as kicked");
  const before = await points(page);
  await until(async () => (await points(page)) >= before + 2, "two more rounds end without it");
  const after = await world.snapshot();
  assert.equal(after.rounds.at(-1).cohort, 2);

  await row(page, "client-2").getByTestId("admit").click();
  await until(async () => (await state(page, "client-2")) !== "kicked", "client-2 is no longer kicked");
  await until(async () => (await world.snapshot()).rounds.at(-1).cohort === 3, "client-2 takes part again");
});

test("a reload in mid-run shows the same state", async () => {
  const seen = await points(page);
  await page.reload();
  await hydrated(page);
  assert.ok((await points(page)) >= seen, "no point is lost");
  assert.equal(await page.getByTestId("client-row").count(), 3);
  await until(async () => (await points(page)) > seen, "and it goes on living");
});

test("without JavaScript the page reads complete", async () => {
  const plain = await world.page({ javaScriptEnabled: false });
  await plain.goto(world.url);
  const { clients, version } = await world.snapshot();
  const text = await plain.locator("body").innerText();
  for (const client of clients) assert.ok(text.includes(client.name), `${client.name} is on the page`);
  assert.ok(text.includes("Round"), "the round is on the page");
  assert.ok((await points(plain)) >= Math.min(version, 5), "the chart is drawn");
  assert.ok((await plain.getByTestId("waiting").innerText()).length > 10, "it says what it waits for");
  // And log in by the plain form.
  await plain.goto(`${world.url}/login`);
  await plain.getByTestId("token").fill(world.token);
  await plain.getByTestId("login").click();
  await plain.waitForURL(`${world.url}/`);
  await plain.context().close();
});

test("nothing is wider than the screen, and all is reachable by keyboard", async () => {
  for (const width of [375, 1440]) {
    await page.setViewportSize({ width, height: 900 });
    const [inner, scroll] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
    assert.ok(scroll <= inner, `at ${width} px the page is ${scroll} px wide`);
  }
  await page.locator("body").press("Tab");
  const focused = await page.evaluate(() => document.activeElement?.tagName);
  assert.notEqual(focused, "BODY");
});

test("a stop finishes the open round and starts no other", async () => {
  await page.getByTestId("autorun-stop").click();
  await until(async () => (await world.snapshot()).phase === "idle", "the run is idle");
  await until(async () => (await page.getByTestId("phase").getAttribute("data-phase")) === "idle", "the page says so");
});

test("a round that waits for one who never sends is cancelled", async () => {
  const silent = await world.guest("silent");
  await until(async () => (await page.getByTestId("client-row").filter({ hasText: "silent" }).count()) === 1, "it is listed");
  await page.getByTestId("run-round").click();
  const cancel = page.getByTestId("cancel-round");
  await until(async () => !(await cancel.isDisabled()), "there is a round to cancel");
  await cancel.click();
  await until(async () => (await world.snapshot()).phase === "idle", "the run is idle");
  assert.equal((await world.snapshot()).rounds.at(-1).reason, "cancelled by the operator");
  await until(async () => await cancel.isDisabled(), "there is nothing to cancel");
  await silent.call("DELETE", `/clients/${silent.id}`);
});

test("a client in quarantine tells why, and is released from the page", async () => {
  const guest = await world.guest("guest");
  await until(async () => (await page.getByTestId("client-row").filter({ hasText: "guest" }).count()) === 1, "it is listed");
  await page.getByTestId("run-round").click();
  let task;
  await until(async () => {
    task = await (await guest.call("GET", `/clients/${guest.id}/task?wait_s=5`)).json();
    return task.task === "train";
  }, "the guest is asked");
  const headers = { "Content-Type": "application/vnd.safetensors" };
  for (let strike = 1; strike <= 3; strike++) {
    // No honest client sends a tensor that does not begin where the one before it ends; the same body twice would be one strike.
    const [n, w] = [{ dtype: "I64", shape: [1], data_offsets: [0, 8] }, { dtype: "F32", shape: [6], data_offsets: [8 + 4 * strike, 32] }];
    const body = safetensors({ n, w }, Buffer.alloc(32));
    const reply = await guest.call("PUT", `/rounds/${task.round}/updates/${guest.id}?samples=100`, { headers, body });
    assert.equal(reply.status, 422, await reply.text());
  }
  await until(async () => (await state(page, "guest")) === "quarantine", "the guest is in quarantine");
  assert.match(await row(page, "guest").getByTestId("trouble").innerText(), /^3 strikes: ./);
  const release = row(page, "guest").getByTestId("admit");
  assert.equal(await release.innerText(), "Release");
  await release.click();
  await until(async () => (await state(page, "guest")) !== "quarantine", "the guest is released");
  assert.equal(await row(page, "guest").getByTestId("trouble").innerText(), "");
  await guest.call("DELETE", `/clients/${guest.id}`);
  await until(async () => (await world.snapshot()).phase === "idle", "the round ends without the guest");
});

test("a restart of the coordinator is shown, and everything is there again", async () => {
  const before = await world.snapshot();
  await world.stopCoordinator();
  await until(async () => (await page.getByTestId("badge").getAttribute("data-link")) !== "live", "the badge says so");
  await world.startCoordinator();
  await until(async () => (await page.getByTestId("badge").getAttribute("data-link")) === "live", "it is live again");
  const after = await world.snapshot();
  assert.deepEqual([after.version, after.rounds.length], [before.version, before.rounds.length]);
  assert.equal(await points(page), before.rounds.filter((round) => round.outcome === "complete").length);
  // The browser rightly tells of the requests that failed while nobody listened.
  page.problems = page.problems.filter((text) => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|Failed to fetch/.test(text));
});

test("the latest and the best model are downloaded from the page", async () => {
  const { version, best } = await world.snapshot();
  assert.ok(best.version <= version);
  for (const which of ["latest", "best"]) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByTestId(`download-${which}`).click()]);
    assert.equal(download.suggestedFilename(), `default-${which}.safetensors`);
    const file = readFileSync(await download.path());
    const header = JSON.parse(file.subarray(8, 8 + Number(file.readBigUInt64LE(0))));
    assert.ok(Object.keys(header).length > 2, "it names the network's tensors");
  }
});

test("a run is archived, unarchived, renamed and deleted from the page", async () => {
  const made = await fetch(`${world.url}/api/v1/runs?run=trial`, {
    method: "POST",
    headers: { Authorization: `Bearer ${world.token}`, "Content-Type": "application/vnd.safetensors" },
    body: safetensors({ w: { dtype: "F32", shape: [2], data_offsets: [0, 8] } }, Buffer.alloc(8)),
  });
  assert.equal(made.status, 201, await made.text());
  const names = async (query) => (await (await fetch(`${world.url}/api/v1/runs${query}`)).json()).map((line) => line.run);
  const open = async () => {
    await hydrated(page);
    await page.getByTestId("run-menu").locator("summary").click();
  };
  await page.goto(`${world.url}/runs/trial`);
  await open();
  await page.getByTestId("archive").click();
  await page.getByText("This run is archived").waitFor();
  assert.deepEqual(await names("?archived=true"), ["trial"]);
  await open();
  await page.getByTestId("archive").click();
  await page.getByTestId("autorun-start").waitFor();
  assert.deepEqual(await names("?archived=true"), []);

  await open();
  await page.getByTestId("run-name").fill("Not A Name");
  await page.getByTestId("rename").click();
  await page.getByText("a run id is 1 to 64 characters").waitFor();
  await page.getByTestId("run-name").fill("kept");
  await page.getByTestId("rename").click();
  await page.waitForURL(`${world.url}/runs/kept`);
  assert.deepEqual(await names(""), ["default", "kept"]);

  await open();
  await page.getByTestId("delete").click();
  await page.keyboard.press("Escape");
  assert.deepEqual(await names(""), ["default", "kept"], "nothing is deleted without a confirmation");
  await page.getByTestId("delete").click();
  await page.getByTestId("confirm-delete").click();
  await page.waitForURL(`${world.url}/`);
  assert.deepEqual(await names(""), ["default"]);
});
