// Shows the values under the cursor, or of the point that the arrow keys chose, on every chart with data.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  document.body.append(tip);
  const text = (value, percent) =>
    percent ? (100 * value).toFixed(2) + " %" : Number(value.toPrecision(4)).toString();
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const data = JSON.parse(svg.dataset.chart);
    const places = [...new Map(data.lines.flatMap(line => line.points.map(p => [p[0], p[2]]))).entries()]
      .sort((a, b) => a[1] - b[1]);
    const cursor = svg.querySelector(".cursor");
    let chosen = -1;
    const hide = () => { tip.style.visibility = cursor.style.visibility = "hidden"; };
    const show = (place, left, top) => {
      chosen = place;
      const [x, across] = places[place];
      cursor.setAttribute("x1", across);
      cursor.setAttribute("x2", across);
      cursor.style.visibility = "visible";
      tip.replaceChildren(Object.assign(document.createElement("div"), { textContent: data.x + " " + text(x) }));
      for (const line of data.lines) {
        const point = line.points.find(p => p[0] === x);
        if (!point) continue;
        const row = document.createElement("div"), dot = document.createElement("i"), value = document.createElement("b");
        dot.style.background = line.colour;
        value.textContent = text(point[1], data.percent);
        row.append(dot, line.name, value);
        tip.append(row);
      }
      tip.style.visibility = "visible";
      const width = tip.offsetWidth, height = tip.offsetHeight;
      tip.style.left = Math.max(4, left + width + 20 > innerWidth ? left - width - 14 : left + 14) + "px";
      tip.style.top = Math.max(4, Math.min(top + 14, innerHeight - height - 4)) + "px";
    };
    const scale = () => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    svg.addEventListener("pointermove", event => {
      const across = (event.clientX - svg.getBoundingClientRect().left) / scale();
      let nearest = 0;
      places.forEach(([, at], n) => { if (Math.abs(at - across) < Math.abs(places[nearest][1] - across)) nearest = n; });
      show(nearest, event.clientX, event.clientY);
    });
    svg.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const place = Math.max(0, Math.min(places.length - 1, chosen + step)), box = svg.getBoundingClientRect();
      show(place, box.left + places[place][1] * scale(), box.top);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
  }
})();
