/** Every text that people see, in English and Chinese. To add a language: one more table with the same keys. */

const en = {
  appName: "imserver",
  tagline: "Chat on your own server.",
  firstLine: "Choose a name and a password. Then open this page in a second window, register another name, and write to each other.",
  register: "Create account", login: "Log in", userId: "User ID", userIdHint: "Letters, digits and _ - . @",
  nickname: "Display name", optional: "optional", password: "Password", passwordHint: "At least 8 characters",
  showPassword: "Show password", hidePassword: "Hide password", remember: "Keep me logged in on this computer",
  working: "One moment…",
  language: "Language", theme: "Theme", themeLight: "Light", themeDark: "Dark", themeAuto: "Like the system",
  conversations: "Conversations", search: "Search", searchHint: "Search, or enter a user ID", clear: "Clear",
  startChat: "Start a chat", startChatWith: "Write to {name}", people: "People", messages: "Messages", chats: "Chats",
  nothingFound: "Nothing found for “{query}”.", searching: "Searching…", searchPartly: "Searched the newest messages of each chat.",
  emptyTitle: "No conversations yet", emptyText: "Enter the user ID of someone on this server to write to them.",
  yourId: "Your user ID is {id}", copyId: "Copy your user ID", copied: "Copied",
  pickTitle: "Choose a conversation", pickText: "Or press {key} to search and to start a new one.",
  welcomeTitle: "Welcome, {name}!", welcomeText: "Enter somebody’s user ID and say hello. Nobody here yet? Open this page in a second window and register another name.",
  noSuchUser: "There is no user “{id}” on this server. Check the spelling: capital letters count.",
  writeToSelf: "That is you. Enter somebody else’s user ID.", open: "Open",
  back: "Back to the conversations", message: "Message", messageTo: "Message to {name}", send: "Send", attach: "Attach a file",
  emoji: "Emoji", dropHere: "Drop files to send them", firstMessage: "This is the beginning of your chat with {name}. Say hello!",
  firstMessageGroup: "This is the beginning of {name}.",
  today: "Today", yesterday: "Yesterday", newMessages: "New messages", toLatest: "To the newest message", newCount: "{count} new",
  you: "You", youPrefix: "You: ", online: "online", offline: "offline", lastSeen: "last seen {time}", group: "Group",
  typing: "typing…", typingName: "{name} is typing…", members: "{count} members",
  statusPending: "Waiting to be sent", statusSent: "Sent", statusRead: "Read", statusFailed: "Not sent", edited: "edited",
  recalled: "This message was recalled.", recalledByYou: "You recalled this message.",
  retry: "Try again", discard: "Remove", cancel: "Cancel", uploading: "Uploading {name}: {percent} %", uploadFailed: "Upload failed",
  reply: "Reply", replyingTo: "Reply to {name}", copy: "Copy text", edit: "Edit", editing: "Edit message", recall: "Recall", react: "React",
  messageMenu: "Actions on this message", notLoaded: "A message that is no longer here",
  image: "Photo", file: "File", audio: "Audio", video: "Video", unknownMessage: "A message of type “{type}”",
  download: "Download {name}", openImage: "Open the picture {name}", close: "Close", imageFailed: "The picture cannot be loaded.",
  fileFailed: "The file cannot be loaded.", noFiles: "This server does not take files.", tooLarge: "The file is too large for this server.",
  connecting: "Connecting…", reconnectingIn: "No connection. Next attempt in {seconds} s", reconnectNow: "Try now", offlineNow: "You are offline. Messages are sent when you are back.",
  back_online: "Connected again", endedReplaced: "This chat was opened in another window.", useHere: "Use it here",
  endedKicked: "This session was ended. Please log in again.", endedUnauthenticated: "Your login has expired. Please log in again.",
  menu: "Menu", notifications: "Desktop notifications", sound: "Sound", on: "on", off: "off", notificationsBlocked: "The browser blocks notifications for this page.",
  logout: "Log out", otherAccount: "Use another account in this window", shortcuts: "Keyboard", shortcutsText: "Ctrl K: search · Alt ↑ ↓: previous, next chat · ↑ in the empty message field: to the messages · Enter on a message: its actions · Esc: back",
  newMessageFrom: "{name}: {text}", unreadCount: "{count} unread", loading: "Loading…", loadFailed: "The messages cannot be loaded.",
  err_unauthenticated: "User ID or password is wrong.", err_user_exists: "This user ID is taken. Choose another, or log in.", err_conflict: "This user ID is taken. Choose another, or log in.",
  err_rate_limited: "Too many attempts. Try again in {seconds} s.", err_unavailable: "The server is busy. Try again in a moment.",
  err_connection: "The server cannot be reached.", err_userId: "A user ID has 1–64 letters, digits or _ - . @", err_password: "Please choose a longer or less common password.",
  err_forbidden: "You cannot write in this conversation.", err_too_large: "The message is too long.", err_other: "That did not work: {message}", err_outbox_full: "Too many unsent messages. Wait until you are connected again.",
  err_storage: "The browser’s storage is full or blocked: unsent messages will not survive a reload.",
};

const zh = {
  appName: "imserver",
  tagline: "运行在你自己服务器上的聊天。",
  firstLine: "取一个用户名和密码；再打开第二个窗口注册另一个用户，就可以互相聊天了。",
  register: "注册账号", login: "登录", userId: "用户 ID", userIdHint: "字母、数字和 _ - . @",
  nickname: "昵称", optional: "可选", password: "密码", passwordHint: "至少 8 个字符",
  showPassword: "显示密码", hidePassword: "隐藏密码", remember: "在这台电脑上保持登录",
  working: "请稍候…",
  language: "语言", theme: "主题", themeLight: "浅色", themeDark: "深色", themeAuto: "跟随系统",
  conversations: "会话", search: "搜索", searchHint: "搜索，或输入用户 ID", clear: "清除",
  startChat: "发起聊天", startChatWith: "给 {name} 发消息", people: "联系人", messages: "消息", chats: "会话",
  nothingFound: "没有找到“{query}”。", searching: "正在搜索…", searchPartly: "仅搜索了每个会话的最新消息。",
  emptyTitle: "还没有会话", emptyText: "输入本服务器上某人的用户 ID，给对方发消息。",
  yourId: "你的用户 ID 是 {id}", copyId: "复制你的用户 ID", copied: "已复制",
  pickTitle: "选择一个会话", pickText: "或按 {key} 搜索并发起新的聊天。",
  welcomeTitle: "欢迎，{name}！", welcomeText: "输入对方的用户 ID 打个招呼。还没有别人？在第二个窗口打开本页，注册另一个用户即可。",
  noSuchUser: "本服务器上没有用户“{id}”。请检查拼写：区分大小写。",
  writeToSelf: "这是你自己。请输入别人的用户 ID。", open: "打开",
  back: "返回会话列表", message: "消息", messageTo: "发给 {name} 的消息", send: "发送", attach: "添加文件",
  emoji: "表情", dropHere: "拖放到这里即可发送", firstMessage: "这是你和 {name} 聊天的开始，打个招呼吧！",
  firstMessageGroup: "这是 {name} 的开始。",
  today: "今天", yesterday: "昨天", newMessages: "新消息", toLatest: "回到最新消息", newCount: "{count} 条新消息",
  you: "你", youPrefix: "你：", online: "在线", offline: "离线", lastSeen: "最近在线 {time}", group: "群聊",
  typing: "正在输入…", typingName: "{name} 正在输入…", members: "{count} 位成员",
  statusPending: "等待发送", statusSent: "已发送", statusRead: "已读", statusFailed: "未发送", edited: "已编辑",
  recalled: "这条消息已撤回。", recalledByYou: "你撤回了这条消息。",
  retry: "重试", discard: "删除", cancel: "取消", uploading: "正在上传 {name}：{percent} %", uploadFailed: "上传失败",
  reply: "回复", replyingTo: "回复 {name}", copy: "复制文字", edit: "编辑", editing: "编辑消息", recall: "撤回", react: "表情回应",
  messageMenu: "这条消息的操作", notLoaded: "消息已不存在",
  image: "图片", file: "文件", audio: "语音", video: "视频", unknownMessage: "类型为“{type}”的消息",
  download: "下载 {name}", openImage: "打开图片 {name}", close: "关闭", imageFailed: "图片无法加载。",
  fileFailed: "文件无法加载。", noFiles: "本服务器不接收文件。", tooLarge: "文件超过了服务器的限制。",
  connecting: "正在连接…", reconnectingIn: "连接已断开，{seconds} 秒后重试", reconnectNow: "立即重试", offlineNow: "你已离线，消息会在恢复连接后发送。",
  back_online: "已重新连接", endedReplaced: "聊天已在另一个窗口打开。", useHere: "在这里使用",
  endedKicked: "会话已结束，请重新登录。", endedUnauthenticated: "登录已过期，请重新登录。",
  menu: "菜单", notifications: "桌面通知", sound: "提示音", on: "开", off: "关", notificationsBlocked: "浏览器阻止了本页面的通知。",
  logout: "退出登录", otherAccount: "在此窗口使用其他账号", shortcuts: "键盘", shortcutsText: "Ctrl K：搜索 · Alt ↑ ↓：上一个、下一个会话 · 输入框为空时按 ↑：浏览消息 · 在消息上按 Enter：操作菜单 · Esc：返回",
  newMessageFrom: "{name}：{text}", unreadCount: "{count} 条未读", loading: "加载中…", loadFailed: "消息无法加载。",
  err_unauthenticated: "用户 ID 或密码错误。", err_user_exists: "这个用户 ID 已被使用，请换一个，或直接登录。", err_conflict: "这个用户 ID 已被使用，请换一个，或直接登录。",
  err_rate_limited: "尝试次数过多，请在 {seconds} 秒后重试。", err_unavailable: "服务器繁忙，请稍后再试。",
  err_connection: "无法连接服务器。", err_userId: "用户 ID 由 1–64 个字母、数字或 _ - . @ 组成", err_password: "请换一个更长或更不常见的密码。",
  err_forbidden: "你不能在这个会话中发消息。", err_too_large: "消息太长了。", err_other: "操作失败：{message}", err_outbox_full: "未发送的消息太多，请等恢复连接后再试。",
  err_storage: "浏览器存储已满或被禁用：未发送的消息在刷新后会丢失。",
};

const tables = { en, zh };
export const languages = { en: "English", zh: "中文" };

let current = "en";

/** The language in use: a key of `languages`. */
export const language = () => current;

/** Choose a language; undefined: what the browser prefers. */
export function setLanguage(name) {
  current = tables[name] ? name : preferred();
  document.documentElement.lang = current === "zh" ? "zh-CN" : current;
  return current;
}

const preferred = () => (navigator.languages ?? [navigator.language]).some((tag) => /^zh\b/i.test(tag))
  && !/^en\b/i.test(navigator.language) ? "zh" : "en";

/** A text with its `{places}` filled in. */
export function t(key, values = {}) {
  const text = tables[current][key] ?? en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_all, name) => String(values[name] ?? ""));
}

const formats = new Map();
const format = (options) => {
  const key = current + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(current === "zh" ? "zh-CN" : undefined, options));
  return formats.get(key);
};

const dayOf = (ms) => new Date(ms).setHours(0, 0, 0, 0);
const daysAgo = (ms) => Math.round((dayOf(Date.now()) - dayOf(ms)) / 86_400_000);

export const clock = (ms) => format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(ms);
export const exactTime = (ms) => format({ dateStyle: "full", timeStyle: "medium" }).format(ms);

/** For the list of conversations: the time today, the weekday this week, else the date. */
export function shortTime(ms) {
  const days = daysAgo(ms);
  if (days <= 0) return clock(ms);
  if (days < 7) return format({ weekday: "short" }).format(ms);
  return format(new Date(ms).getFullYear() === new Date().getFullYear() ? { month: "short", day: "numeric" } : { year: "numeric", month: "numeric", day: "numeric" }).format(ms);
}

/** For the line between two days. */
export function dayName(ms) {
  const days = daysAgo(ms);
  if (days === 0) return t("today");
  if (days === 1) return t("yesterday");
  return format(new Date(ms).getFullYear() === new Date().getFullYear() ? { weekday: "long", month: "long", day: "numeric" } : { dateStyle: "long" }).format(ms);
}

export const isSameDay = (a, b) => dayOf(a) === dayOf(b);

export function fileSize(bytes) {
  if (!(bytes >= 0)) return "";
  const step = Math.min(3, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${new Intl.NumberFormat(current, { maximumFractionDigits: step ? 1 : 0 }).format(bytes / 1024 ** step)} ${["B", "KB", "MB", "GB"][step]}`;
}
