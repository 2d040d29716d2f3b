// The two views of the page.

import { startAsking } from "./ask.js";
import { startClips } from "./clip.js";
import { byId } from "./dom.js";
import { startItems } from "./items.js";
import { startPlot } from "./plot.js";

const VIEWS = ["ask", "items"];

function showView() {
  const chosen = VIEWS.find((name) => location.hash === `#${name}`) ?? "ask";
  for (const name of VIEWS) byId(name).hidden = name !== chosen;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
}

startClips();
startPlot();
startAsking();
startItems();
window.addEventListener("hashchange", showView);
showView();
document.documentElement.dataset.ready = "yes";
