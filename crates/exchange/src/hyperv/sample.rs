//! Configurations for tests, written as Hyper-V writes them, as far as the reader looks.

const TABLE_BYTES: usize = 0x1000;
const TABLES_AT: usize = 0x3000;
pub const LOG_AT: usize = 0x2800;

/// Keys with values, by their paths; nodes come by themselves.
pub struct Sketch(Vec<(String, Value)>);

#[derive(Clone)]
pub enum Value {
    Node,
    Int(i64),
    Text(String),
    Bool(bool),
}

struct Written {
    path: String,
    table: u16,
    at: u32,
}

impl Sketch {
    /// A machine with all that is looked at.
    pub fn machine() -> Self {
        let mut sketch = Self(Vec::new());
        sketch.int("properties/subtype", 1);
        sketch.text("properties/name", "Web 01");
        sketch.text("properties/global_id", "282874FC-59D6-4F30-BC04-5FDD909C82E0");
        sketch.text("properties/notes", &"n".repeat(3000));
        sketch.int("settings/processors/count", 4);
        sketch.bool("settings/processors/nested_virtualization/enabled", true);
        sketch.int("settings/memory/bank/size", 2048);
        sketch.bool("settings/memory/bank/dynamic_memory_enabled", true);
        sketch.device(
            "vdev001",
            "83f8638b-8dca-4152-9eda-2ca8b33039b4",
            "a",
            "Microsoft Emulated IDE Controller",
        );
        sketch.drive("_a_/controller1/drive0", "VHD", "C:\\VMs\\other.vhd");
        sketch.drive("_a_/controller0/drive1", "ISO", "C:\\x.iso");
        sketch.device("vdev002", "d422512d-2bf2-4752-809d-7b82b5fcb1b4", "b", "Synthetic SCSI Controller");
        sketch.drive("_b_/controller0/drive3", "VHD", "C:\\VMs\\data_1.avhdx");
        sketch.drive("_b_/controller0/drive0", "VHD", "C:\\VMs\\os.vhdx");
        sketch.device("vdev003", "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778", "c", "Synthetic Ethernet Port");
        sketch.text("_c_/FriendlyName", "Front");
        sketch.text("_c_/MacAddress", "00-15-5D-01-02-03");
        sketch.bool("_c_/MacAddressIsStatic", true);
        sketch.bool("_c_/IsConnected", true);
        sketch.text("_c_/Connection/AltSwitchName", "LAN");
        sketch.int("_c_/Connection/Feature_952C5004-4465-451C-8CB8-FA9AB382B773/Flags", 0);
        sketch.device("vdev004", "00000000-0000-0000-0000-000000000001", "d", "Virtual Pci Express Port");
        sketch
    }

    fn put(&mut self, path: &str, value: Value) {
        self.0.push((format!("configuration/{path}"), value));
    }

    fn text(&mut self, path: &str, text: &str) {
        self.put(path, Value::Text(text.to_owned()));
    }

    fn int(&mut self, path: &str, number: i64) {
        self.put(path, Value::Int(number));
    }

    fn bool(&mut self, path: &str, is_on: bool) {
        self.put(path, Value::Bool(is_on));
    }

    fn device(&mut self, key: &str, class: &str, instance: &str, name: &str) {
        for (what, text) in [("device", class), ("instance", instance), ("name", name)] {
            self.text(&format!("manifest/{key}/{what}"), text);
        }
    }

    fn drive(&mut self, path: &str, kind: &str, file: &str) {
        self.text(&format!("{path}/type"), kind);
        self.text(&format!("{path}/pathname"), file);
    }

    /// As it lies on a disk.
    pub fn file(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        for (path, value) in &self.0 {
            writer.write(path, value);
        }
        writer.file()
    }
}

#[derive(Default)]
struct Writer {
    written: Vec<Written>,
    tables: Vec<Vec<u8>>,
    /// What is too long for an entry.
    files: Vec<Vec<u8>>,
}

impl Writer {
    fn write(&mut self, path: &str, value: &Value) {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
        if let Some(parent) = &parent
            && !self.written.iter().any(|written| written.path == *parent)
        {
            self.write(parent, &Value::Node);
        }
        let key = path.rsplit('/').next().unwrap_or_default();
        let parent = parent.and_then(|parent| self.written.iter().find(|written| written.path == parent));
        let parent = parent.map_or((0, 0), |parent| (parent.table, parent.at));
        let (kind, data) = self.data(value);
        let size = 0x15 + key.len() + 1 + data.len();
        let mut entry = Vec::new();
        entry.extend(u16::to_le_bytes(kind));
        entry.extend((size as u32).to_le_bytes());
        entry.extend(parent.0.to_le_bytes());
        entry.extend(parent.1.to_le_bytes());
        entry.extend([0; 8]);
        entry.push(key.len() as u8 + 1);
        entry.extend(key.as_bytes());
        entry.push(0);
        entry.extend(data);
        if self.tables.last().is_none_or(|table| table.len() + size > TABLE_BYTES) {
            let number = self.tables.len() as u16 + 1;
            let head = [2, number, 1].map(u16::to_le_bytes).concat();
            self.tables.push([&head[..], &[0; 4]].concat());
        }
        let (number, table) = (self.tables.len() as u16, self.tables.last_mut().expect("one was made"));
        self.written.push(Written { path: path.to_owned(), table: number, at: table.len() as u32 });
        table.extend(entry);
    }

    fn data(&mut self, value: &Value) -> (u16, Vec<u8>) {
        match value {
            Value::Node => (9, vec![0; 12]),
            Value::Int(number) => (3, number.to_le_bytes().to_vec()),
            Value::Bool(is_on) => (8, u32::from(*is_on).to_le_bytes().to_vec()),
            Value::Text(text) => {
                let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let length = (bytes.len() as u32).to_le_bytes();
                if bytes.len() < 0x800 {
                    return (6, [&length[..], &bytes].concat());
                }
                let at = Self::file_at(self.files.len());
                self.files.push(bytes);
                (0x106, [&length[..], &at.to_le_bytes()].concat())
            }
        }
    }

    /// Objects of files lie where no table does.
    fn file_at(number: usize) -> u64 {
        0x10_000 + number as u64 * 0x4000
    }

    fn file(&self) -> Vec<u8> {
        let mut file = vec![0; TABLES_AT];
        for (number, at) in [(2_u16, 0), (1, 0x1000)] {
            let mut head = 0x0128_2014_u32.to_le_bytes().to_vec();
            head.extend([0; 4]);
            head.extend(number.to_le_bytes());
            head.extend(0x400_u32.to_le_bytes());
            head.extend([0; 8]);
            head.extend(0x1000_u32.to_le_bytes());
            head.extend((LOG_AT as u64).to_le_bytes());
            head.extend([0; 12]);
            let mut sum = flate2::Crc::new();
            sum.update(&head);
            head[4..8].copy_from_slice(&sum.sum().to_le_bytes());
            file[at..at + head.len()].copy_from_slice(&head);
        }
        file[LOG_AT..LOG_AT + 4].copy_from_slice(&0x0111_0003_u32.to_le_bytes());
        let mut objects = Vec::new();
        for (number, table) in self.tables.iter().enumerate() {
            objects.extend(object(2, (TABLES_AT + number * TABLE_BYTES) as u64, TABLE_BYTES as u32));
            let mut table = table.clone();
            table.resize(TABLE_BYTES, 0);
            file.extend(table);
        }
        for (number, content) in self.files.iter().enumerate() {
            let at = Self::file_at(number);
            objects.extend(object(3, at, 0x4000));
            file.resize(at as usize, 0);
            file.extend(content);
            file.resize(at as usize + 0x4000, 0);
        }
        let count = (self.tables.len() + self.files.len()) as u32;
        file[0x2000..0x2004].copy_from_slice(&0x0111_0001_u32.to_le_bytes());
        file[0x2004..0x2008].copy_from_slice(&count.to_le_bytes());
        file[0x2008..0x2008 + objects.len()].copy_from_slice(&objects);
        file
    }
}

fn object(kind: u8, at: u64, size: u32) -> Vec<u8> {
    [&[kind][..], &[0; 4], &at.to_le_bytes(), &size.to_le_bytes(), &[1]].concat()
}
