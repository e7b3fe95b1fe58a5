"use strict";
(function () {
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const buttons = {displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (given, grid) => Object.assign({gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true}, given, {
    title: Object.assign({font: {size: 12.5}, standoff: 8}, given.title)
  });

  function draw(node) {
    const figure = JSON.parse(node.querySelector("script").textContent);
    const ink = colour("--ink"), grid = colour("--line"), card = colour("--card"), given = figure.layout;
    const layout = Object.assign({
      template: templates[dark.matches ? "dark" : "light"], height: parseFloat(getComputedStyle(node).getPropertyValue("--height")),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink},
      margin: {l: 56, r: 12, t: 28, b: 44}, modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent")},
      hoverlabel: {bgcolor: card, bordercolor: grid, font: {color: ink}},
      legend: {orientation: "h", x: 0, xanchor: "left", y: -0.16, yanchor: "top", font: {color: ink}}
    }, given, {xaxis: axis(given.xaxis, grid), yaxis: axis(given.yaxis, grid)});
    node.target = node.target || node.appendChild(document.createElement("div"));
    Plotly.react(node.target, figure.data, layout, given.showlegend === false ? {displayModeBar: false, responsive: true} : buttons);
  }
  // Draw one chart after another, from the top, so that the page stays responsive; draw a hidden view's charts when it is shown.
  const nodes = Array.from(document.querySelectorAll(".plot"));
  const undrawn = () => nodes.filter(node => !node.target && node.offsetWidth);
  const next = () => undrawn().slice(0, 1).forEach(node => { draw(node); setTimeout(next); });
  next();
  dark.addEventListener("change", () => nodes.filter(node => node.target).forEach(draw));
  window.addEventListener("beforeprint", () => undrawn().forEach(draw));

  document.querySelectorAll(".seg button").forEach(button => button.addEventListener("click", () => {
    const section = button.closest("section");
    section.querySelectorAll(".seg button").forEach(other => other.setAttribute("aria-pressed", other === button));
    section.querySelectorAll("[data-view]:not(button)").forEach(part => {
      part.hidden = part.dataset.view !== button.dataset.view;
    });
    section.querySelectorAll(".plot").forEach(node => {
      if (node.target && node.offsetWidth) Plotly.Plots.resize(node.target);
    });
    next();
  }));
  document.querySelectorAll("table.data thead button").forEach(button => button.addEventListener("click", () => {
    const head = button.closest("th"), column = head.cellIndex, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    head.closest("tr").querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => {
      const cell = row.cells[column], number = parseFloat(cell.textContent);
      return column ? (Number.isNaN(number) ? -Infinity : number) : cell.textContent;
    };
    const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
    Array.from(body.rows).sort((a, b) => order(value(a), value(b)) * (down ? -1 : 1)).forEach(row => body.appendChild(row));
  }));
})();
