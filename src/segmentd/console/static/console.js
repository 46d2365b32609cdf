// Times in the reader's zone, with UTC on hover; and the key / for the search. Without it every page still works.
"use strict";

(() => {
  // The reader's own variety of the page's language, for the order of day and month.
  const locale = () => {
    const { lang } = document.documentElement;
    return navigator.languages.find((each) => each.split("-")[0] === lang) || lang;
  };
  const shown = { dateStyle: "medium", timeStyle: "medium" };
  const two = (number) => String(number).padStart(2, "0");

  function localTimes(root) {
    const format = new Intl.DateTimeFormat(locale(), shown);
    for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
      time.dataset.local = "";
      time.textContent = format.format(new Date(time.dateTime));
    }
  }

  // What stands at the axis of a chart: as much of it as in the text for UTC.
  function localAxes(root) {
    for (const text of root.querySelectorAll("svg text[data-time]")) {
      const hours = text.textContent.includes(":") ? { hour: "2-digit", minute: "2-digit" } : { year: "numeric" };
      const form = { day: "2-digit", month: "short", ...hours };
      text.textContent = new Intl.DateTimeFormat(locale(), form).format(new Date(text.dataset.time));
      delete text.dataset.time;
    }
  }

  // A field of a time is sent in UTC. The reader sees and writes it in their own zone.
  function localFields(root) {
    for (const input of root.querySelectorAll("input[type=datetime-local][data-zone=utc]")) {
      input.dataset.zone = "local";
      if (input.value) {
        const date = new Date(input.value + "Z");
        input.value = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T` +
          `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
      }
      for (const label of input.labels) {
        label.textContent = label.textContent.replace(" (UTC)", "");
      }
    }
  }

  // A slider beside a field writes into it, and follows it.
  function sliders(root) {
    for (const slider of root.querySelectorAll("input[type=range][data-field][hidden]")) {
      const field = slider.form.elements.namedItem(slider.dataset.field);
      slider.hidden = false;
      slider.addEventListener("input", () => { field.value = slider.value; });
      field.addEventListener("input", () => { slider.value = field.value.replace(",", ".") || "0"; });
    }
  }

  function localise(root) {
    sliders(root);
    localTimes(root);
    localAxes(root);
    localFields(root);
  }

  document.addEventListener("formdata", (event) => {
    for (const input of event.target.querySelectorAll("input[type=datetime-local][data-zone=local]")) {
      if (input.value && input.name) {
        event.formData.set(input.name, new Date(input.value).toISOString());
      }
    }
  });

  document.addEventListener("keydown", (event) => {
    const into = event.target;
    const writes = into instanceof HTMLElement && (into.isContentEditable || into.matches("input, textarea, select"));
    const search = document.getElementById("search");
    if (event.key === "/" && !writes && search && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  // A page that came without a reload is read from its beginning, as after one.
  function begin(event) {
    const content = document.getElementById("content");
    if (event.detail.boosted && event.target === document.body && !content.querySelector("[autofocus]")) {
      content.focus({ preventScroll: true });
    }
  }

  document.addEventListener("htmx:afterSettle", (event) => {
    localise(event.target);
    begin(event);
  });
  document.addEventListener("DOMContentLoaded", () => localise(document));
})();
