// Numbers for people.

export const dash = "–";

export function number(value, digits = 1) {
  if (value === null || value === undefined) return dash;
  const shown = Math.abs(value) >= 100 ? 0 : digits;
  return value.toLocaleString("en", { maximumFractionDigits: shown });
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return dash;
  if (seconds < 0.001) return "0 ms";
  if (seconds < 1) return `${(seconds * 1000).toPrecision(seconds < 0.01 ? 2 : 3).replace(/\.0+$/, "")} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  return `${seconds.toFixed(1)} s`;
}

export function span(seconds) {
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} days ${Math.floor((whole % 86400) / 3600)} h`;
}

function scaled(count, base, units) {
  let at = 0;
  while (count >= base && at < units.length - 1) {
    count /= base;
    at += 1;
  }
  return { count, unit: units[at], isLarge: at > 2 };
}

export function bytes(whole) {
  const { count, unit, isLarge } = scaled(whole, 1000, ["B", "kB", "MB", "GB", "TB"]);
  return `${count.toFixed(isLarge ? 1 : 0)} ${unit}`;
}

/** Memory and disks, in powers of 1024 as nvidia-smi and free count them. */
export function size(whole) {
  const { count, unit, isLarge } = scaled(whole, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
  return `${count.toFixed(isLarge && count < 100 ? 1 : 0)} ${unit}`;
}

export const percent = (share) => `${number(share * 100, share > 0 && share < 0.1 ? 1 : 0)} %`;
export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
