// Takes the README's screenshot and its three sisters from a demo that runs.
// usage: node screenshots.mjs http://127.0.0.1:3000/login#TOKEN FOLDER
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const [address, folder] = process.argv.slice(2);
const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"].find((p) => p && existsSync(p));
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
for (const colorScheme of ["light", "dark"]) {
  for (const width of [1440, 375]) {
    const page = await browser.newPage({ colorScheme, viewport: { width, height: 900 } });
    await page.goto(address);
    await page.waitForSelector("[data-hydrated=true] [data-testid=badge][data-link=live]");
    await page.waitForTimeout(1500);
    await page.screenshot({ path: `${folder}/dashboard-${width}-${colorScheme}.png`, fullPage: true });
    await page.close();
  }
}
await browser.close();
