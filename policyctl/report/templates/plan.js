"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const changes = [...document.querySelectorAll("details.change")];
  const form = one("#filter");
  const open = (id) => {
    const change = changes.find((each) => each.id === id);
    if (!change) return;
    if (change.hidden) form.reset(), show();
    change.open = true;
    change.style.contentVisibility = "visible"; // without its whole height it cannot be scrolled to the top
    change.scrollIntoView();
    change.firstElementChild.focus({ preventScroll: true });
  };
  // The search is over the visible text, which is collected once, when the first letter is typed.
  let texts;
  const show = () => {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) texts ??= changes.map((change) => change.textContent.toLowerCase());
    let left = 0;
    changes.forEach((change, place) => {
      const kind = form.kind.value;
      const fits =
        (!kind || change.dataset.kind === kind) &&
        (!form.worse.checked || "worse" in change.dataset) &&
        words.every((word) => texts[place].includes(word));
      change.hidden = !fits;
      left += fits;
    });
    const count = (number) => number.toLocaleString("en");
    one("#count").textContent =
      left === changes.length ? `all ${count(left)} changes` : `${count(left)} of ${count(changes.length)} changes`;
    one("#none").hidden = left > 0;
  };
  // What scrolls sideways gets keyboard focus, in every browser. Measuring forces a layout, so only elements near the view.
  const near = new IntersectionObserver(
    (seen) => {
      const shown = seen.filter((each) => each.isIntersecting).map((each) => each.target);
      const scrolled = shown.map((each) => each.scrollWidth > each.clientWidth); // measure all before changing any
      shown.forEach((each, place) => (each.tabIndex = scrolled[place] ? 0 : -1));
    },
    { rootMargin: "100%" },
  );
  document.querySelectorAll(".wide").forEach((wide) => near.observe(wide));
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  if (form) {
    one("#controls").hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("reset", () => setTimeout(show));
    form.addEventListener("submit", (event) => event.preventDefault());
    one("#expand").addEventListener("click", () => changes.forEach((change) => (change.open ||= !change.hidden)));
    one("#collapse").addEventListener("click", () => changes.forEach((change) => (change.open = false)));
    addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && event.target !== form.text) {
        event.preventDefault();
        form.text.focus();
      } else if (event.key === "Escape" && event.target === form.text) {
        form.reset();
      }
    });
    show();
  }
  open(location.hash.slice(1));
})();
