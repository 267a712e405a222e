/** Files: uploads on their way, and pictures as blob URLs (an <img> cannot send the Authorization header). */
import { Lru } from "/app/emitter.js";
import { randomId } from "/imserver.js";

/** What an <img> shows. No SVG: it is a document, and as a picture of a stranger's it has no place here. */
const IMAGE_TYPES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"]);
const MAX_URLS = 60;

export const isImage = (type) => IMAGE_TYPES.has(type);

export class Media {
  /** @param {import("/imserver.js").ImClient} client */
  constructor(client) {
    this.client = client;
    this.urls = new Lru(MAX_URLS, (entry) => entry.then((url) => URL.revokeObjectURL(url), () => {}));
  }

  /** The URL of a picture, downloaded once. @returns {Promise<string>} */
  url(fileId) {
    let entry = this.urls.get(fileId);
    if (!entry) {
      entry = this.client.download(fileId).then((blob) => {
        if (!isImage(blob.type)) throw new TypeError("not a picture");
        return URL.createObjectURL(blob);
      });
      entry.catch(() => this.urls.delete(fileId)); // so that it can be tried again
      this.urls.set(fileId, entry);
    }
    return entry;
  }

  /** One's own picture is here already. */
  keep(fileId, blob) { this.urls.set(fileId, Promise.resolve(URL.createObjectURL(blob))); }

  /** Save a file. Its type is taken away: whatever it says, the browser stores it and shows nothing. */
  async save(fileId, name) {
    const blob = await this.client.download(fileId);
    const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  close() { for (const entry of this.urls.values()) entry.then((url) => URL.revokeObjectURL(url), () => {}); this.urls.clear(); }
}

/** One file on its way to a conversation. */
export class Upload {
  constructor(client, media, conversationId, file, onChange) {
    Object.assign(this, { client, media, conversationId, file, onChange });
    this.id = `upload-${randomId()}`;
    this.name = file.name || `picture.${file.type.split("/")[1] || "png"}`;
    this.isImage = isImage(file.type);
    this.preview = this.isImage ? URL.createObjectURL(file) : null;
    this.created_at = client.serverNow();
    this.progress = 0;
    this.error = null;
    this.isDone = false;
  }

  async run() {
    this.error = null;
    this.abort = new AbortController();
    try {
      const size = this.isImage ? await pictureSize(this.file) : {};
      const stored = await this.client.upload(this.file, {
        name: this.name, signal: this.abort.signal,
        onProgress: (sent, total) => { this.progress = total ? sent / total : 1; this.onChange(this); },
      });
      if (this.isImage) this.media.keep(stored.file_id, this.file);
      this.finish();
      const body = { file_id: stored.file_id, name: stored.name, size: stored.size, type: stored.type, ...size };
      const type = this.isImage ? "image" : "file";
      this.client.send(this.conversationId, body, { type }).catch(() => {}); // a refusal is shown at the message itself
    } catch (error) {
      if (error.error === "aborted") return this.finish();
      this.error = error;
      this.onChange(this);
    }
  }

  cancel() {
    this.abort?.abort();
    this.finish();
  }

  finish() {
    if (this.isDone) return;
    this.isDone = true;
    if (this.preview) URL.revokeObjectURL(this.preview);
    this.onChange(this);
  }
}

async function pictureSize(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap;
    bitmap.close();
    return { width, height };
  } catch {
    return {}; // no picture that this browser reads: it is sent without its size
  }
}
