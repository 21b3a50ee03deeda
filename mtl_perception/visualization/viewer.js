// Orbit viewer of the points in window.CLOUD, in plain WebGL 1. Optical frame of the camera: x right, y down, z forward.
(function () {
  "use strict";

  const cloud = window.CLOUD;
  const root = document.getElementById("viewer");
  const canvas = root.querySelector("canvas");
  const gl = canvas.getContext("webgl", { antialias: true });
  if (!gl || !cloud) {
    // Without WebGL the page keeps the rendered image.
    root.classList.add("still");
    return;
  }
  root.classList.add("live");

  const FIELD_OF_VIEW = 60 * Math.PI / 180;
  const BACKGROUND = [17 / 255, 20 / 255, 26 / 255];

  const program = link(
    `attribute vec3 position;
     attribute vec3 color;
     uniform mat4 transform;
     uniform float step;
     uniform float size;
     varying vec3 tint;
     void main() {
       gl_Position = transform * vec4(position * step, 1.0);
       gl_PointSize = clamp(size / gl_Position.w, 2.0, 48.0);
       tint = color;
     }`,
    `precision mediump float;
     varying vec3 tint;
     void main() {
       vec2 from = gl_PointCoord - 0.5;
       if (dot(from, from) > 0.25) discard;
       gl_FragColor = vec4(tint, 1.0);
     }`);
  const buffers = {
    positions: buffer(new Int16Array(bytes(cloud.positions).buffer)),
    rgb: buffer(bytes(cloud.rgb)),
    label: buffer(bytes(cloud.label)),
  };

  let view, colors = "rgb", size = 7, queued = false;

  function reset() {
    const [x, y, z] = cloud.eye.map((value, axis) => value - cloud.target[axis]);
    const distance = Math.hypot(x, y, z);
    view = { target: cloud.target.slice(), distance, yaw: Math.atan2(x, -z), pitch: Math.asin(-y / distance) };
    redraw();
  }

  // Axes and position of the viewer in the frame of the cloud.
  function pose() {
    const sy = Math.sin(view.yaw), cy = Math.cos(view.yaw), sp = Math.sin(view.pitch), cp = Math.cos(view.pitch);
    const forward = [-sy * cp, sp, cy * cp];
    const right = [cy, 0, sy];
    const down = [sy * sp, cp, -cy * sp];
    const eye = view.target.map((value, axis) => value - forward[axis] * view.distance);
    return { right, down, forward, eye };
  }

  function draw() {
    queued = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(...BACKGROUND, 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);

    // On a narrow screen the field of view follows the height; otherwise the street would be a thin band.
    const focal = 1 / Math.tan(FIELD_OF_VIEW / 2) * Math.max(1, 1.2 * height / width);
    const { right, down, forward, eye } = pose();
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const near = 0.1, far = 1000, a = (far + near) / (far - near), b = -2 * far * near / (far - near);
    const rows = [
      [right.map(v => v * focal), -dot(right, eye) * focal],
      [down.map(v => -v * focal * width / height), dot(down, eye) * focal * width / height],
      [forward.map(v => v * a), -dot(forward, eye) * a + b],
      [forward, -dot(forward, eye)],
    ];
    const matrix = new Float32Array(16);
    rows.forEach(([vector, shift], row) => {
      vector.forEach((value, column) => { matrix[column * 4 + row] = value; });
      matrix[12 + row] = shift;
    });

    gl.useProgram(program);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "transform"), false, matrix);
    gl.uniform1f(gl.getUniformLocation(program, "step"), cloud.step);
    gl.uniform1f(gl.getUniformLocation(program, "size"), size * 0.01 * focal * width);
    attribute("position", buffers.positions, gl.SHORT, false);
    attribute("color", buffers[colors], gl.UNSIGNED_BYTE, true);
    gl.drawArrays(gl.POINTS, 0, cloud.count);
  }

  function redraw() {
    if (!queued) {
      queued = true;
      requestAnimationFrame(draw);
    }
  }

  function rotate(dx, dy) {
    view.yaw -= dx;
    view.pitch = Math.min(1.5, Math.max(-1.5, view.pitch + dy));
    redraw();
  }

  function zoom(factor) {
    view.distance = Math.min(300, Math.max(0.5, view.distance * factor));
    redraw();
  }

  function pan(dx, dy) {
    const { right, down } = pose();
    const scale = view.distance * 2 * Math.tan(FIELD_OF_VIEW / 2) / canvas.clientWidth;
    view.target = view.target.map((value, axis) => value - (right[axis] * dx + down[axis] * dy) * scale);
    redraw();
  }

  const pointers = new Map();

  function pinch() {
    const [a, b] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, gap: Math.hypot(a.x - b.x, a.y - b.y) };
  }

  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", event => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = { x: event.clientX, y: event.clientY };
    if (pointers.size === 1) {
      const dx = now.x - last.x, dy = now.y - last.y;
      if (event.buttons & 2 || event.shiftKey) pan(dx, dy);
      else rotate(dx * 0.006, dy * 0.006);
      pointers.set(event.pointerId, now);
    } else if (pointers.size === 2) {
      const before = pinch();
      pointers.set(event.pointerId, now);
      const after = pinch();
      zoom(before.gap / Math.max(after.gap, 1));
      pan(after.x - before.x, after.y - before.y);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, event => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.003));
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const keys = { ArrowLeft: [-0.08, 0], ArrowRight: [0.08, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
    if (keys[event.key]) {
      event.preventDefault();
      rotate(...keys[event.key]);
    } else if (event.key === "+" || event.key === "-") {
      zoom(event.key === "+" ? 0.9 : 1.1);
    }
  });
  canvas.addEventListener("webglcontextlost", () => root.classList.replace("live", "still"));
  for (const button of root.querySelectorAll("[data-color]")) {
    button.addEventListener("click", () => {
      colors = button.dataset.color;
      for (const other of root.querySelectorAll("[data-color]")) other.setAttribute("aria-pressed", other === button);
      redraw();
    });
  }
  root.querySelector("[data-reset]").addEventListener("click", reset);
  root.querySelector("input").addEventListener("input", event => {
    size = Number(event.target.value);
    redraw();
  });
  new ResizeObserver(redraw).observe(canvas);
  reset();

  function bytes(text) {
    return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  }

  function buffer(values) {
    const created = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, created);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    return created;
  }

  function attribute(name, values, type, normalized) {
    const location = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, values);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, 3, type, normalized, 0, 0);
  }

  function link(vertex, fragment) {
    const created = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(created, shader);
    }
    gl.linkProgram(created);
    return created;
  }
})();
