"use strict";
for (const box of document.querySelectorAll(".compare")) {
  const input = box.querySelector(".divider");
  const move = () => box.style.setProperty("--at", `${input.value}%`);
  input.addEventListener("input", move);
  move();
}
const blend = document.getElementById("blend");
if (blend) {
  const show = () => document.documentElement.style.setProperty("--blend", blend.value / 100);
  blend.addEventListener("input", show);
  show();
}
